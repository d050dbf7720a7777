# SPDX-License-Identifier: GPL-3.0-or-later
"""Of two processes that open a volume at the same instant one wins, each time, on each kind of store; and what
winners wrote is there in the end."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cas3fs.commands.mkfs import create_volume
from cas3fs.config import LocalFolders, StoreSettings, VolumeSettings, WriterSettings
from cas3fs.volume.opening import open_view
from tests.encrypted import chosen

from .conftest import read_all

if TYPE_CHECKING:
    from cas3fs.testing.servers import S3Server

DIRECTORY_ROUNDS, S3_ROUNDS, LONG_ROUNDS = 50, 10, 500
"""On S3 a round costs two clients of boto3; `epochs/test_rivals.py` has fifty claims there, with clients that stay."""
WRITING = 10
"""In each so many rounds the winner writes something."""
SCRIPT = Path(__file__).with_name("rival.py")


@pytest.fixture(params=["directory", "moto", "rclone"])
def url(request: pytest.FixtureRequest, encryption: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a new volume is: moto honours conditions, rclone ignores them."""
    if request.param == "directory":
        (tmp_path / "v").mkdir()
        made = (tmp_path / "v").as_uri()
    else:
        server: S3Server = request.getfixturevalue(f"{request.param}_s3")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.make_bucket("rivals-open")
        made = "s3://rivals-open/volume"
    create_volume(StoreSettings(made), chosen(VolumeSettings(allow_unfenced=request.param == "rclone")))
    return made


class Rival:
    """The process of `rival`."""

    def __init__(self, url: str, folder: Path) -> None:
        folder.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, SCRIPT, url, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.heard() == "ready"

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture
def rivals(url: str, tmp_path: Path) -> Iterator[list[Rival]]:
    made = [Rival(url, tmp_path / name) for name in ("alpha", "beta")]
    yield made
    for one in made:
        one.close()


@pytest.mark.promise("one-of-two-mounts-wins")
def test_one_of_two_processes_that_open_a_volume_at_once_wins(
    url: str, rivals: list[Rival], tmp_path: Path, long: bool
) -> None:
    usual_rounds = S3_ROUNDS if url.startswith("s3:") else DIRECTORY_ROUNDS
    rounds = LONG_ROUNDS if long else usual_rounds
    written = []
    for number in range(rounds):
        for one in rivals:
            one.tell("open")
        heard = [one.heard() for one in rivals]
        assert sorted(heard) == ["held", "won"], number
        told = "leave" if number % WRITING else f"file {number}"
        written += [] if told == "leave" else [told]
        winner = rivals[heard.index("won")]
        winner.tell(told)
        assert winner.heard() == told
    settings = WriterSettings(cache_size_bytes=0, read_only=True)
    view = open_view(StoreSettings(url), settings, LocalFolders(tmp_path / "viewer", tmp_path / "cache"))
    try:
        view.start(0)
        assert read_all(view) == {name: name for name in written}
    finally:
        view.close()
