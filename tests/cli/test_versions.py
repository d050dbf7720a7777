# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands whose mount runs another version of cas3fs, and so tells them less than they want to know."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.cli.program import run
from cas3fs.control import SOCKET_NAME, ControlServer, Message, MountRecord, Progress


def tell_little(args: Message, progress: Progress) -> Message:
    progress({"snapshot": {"id": "some"}})
    return {"status": 0, "packs": 1}


@pytest.fixture
def url(workspace: Path) -> Iterator[str]:
    """A volume that is mounted by a process of another version."""
    (workspace / "s" / "uuid").mkdir(parents=True)
    (workspace / "v").mkdir()
    url = (workspace / "v").as_uri()
    MountRecord(url, "uuid", str(workspace / "m"), os.getpid()).save(workspace / "s" / "uuid")
    verbs = ("stats", "flush", "gc", "fsck", "snapshots", "snapshot-create")
    server = ControlServer(workspace / "s" / "uuid" / SOCKET_NAME, dict.fromkeys(verbs, tell_little))
    server.start()
    yield url
    server.close()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("stats", 1),
        ("stats --json", 1),
        ("flush", 1),
        ("gc", 1),
        ("gc --dry-run", 1),
        ("fsck", 8),
        ("snapshot list", 1),
        ("snapshot create", 1),
    ],
)
def test_what_a_mount_of_another_version_does_not_tell_is_an_error_of_one_line(
    url: str, workspace: Path, capsys: pytest.CaptureFixture[str], words: str, status: int
) -> None:
    assert run([*words.split(), url, "--state-dir", str(workspace / "s")]) == status
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1
    assert "another version of cas3fs" in told.err
    assert "unmount the volume and mount it again" in told.err


def test_a_request_that_a_mount_does_not_know_is_an_error_of_one_line(
    url: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["snapshot", "delete", url, "1", "--state-dir", str(workspace / "s")]) == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "does not know the request" in told
