# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs copy`` between S3 servers, with secrets and endpoints of their own for both sides."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cas3fs.config import StoreSettings
from cas3fs.errors import MountError
from cas3fs.testing.volumes import TemporaryVolume

from .conftest import Pair, Place, filled, noise, two_files

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer, S3Server


@pytest.fixture
def machine(tmp_path: Path) -> TemporaryVolume:
    """Runs commands, with folders of its own."""
    return TemporaryVolume(tmp_path, "")


def test_a_volume_moves_from_one_server_to_another(
    machine: TemporaryVolume,
    rclone_s3: "RcloneServer",
    moto_s3: "S3Server",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for server, bucket in ((rclone_s3, "old"), (moto_s3, "new")):
        server.make_bucket(bucket)
    config = tmp_path / "config"
    config.write_text(
        f"[profile old]\naws_access_key_id = {rclone_s3.access_key}\n"
        f"aws_secret_access_key = {rclone_s3.secret_key}\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name, value in moto_s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    old = StoreSettings("s3://old/volume", rclone_s3.endpoint_url, profile="old")
    with monkeypatch.context() as patch:
        for name, value in rclone_s3.environment.items():
            patch.setenv(name, value)
        machine.run("mkfs", old.url, "--no-encrypt", "--allow-unfenced")
    source = Place(tmp_path, old)
    filled(source)
    key = tmp_path / "key"
    key.write_bytes(noise(3, 32))
    there = ("--endpoint-url", moto_s3.endpoint_url, "--key-file", str(key))
    machine.run("mkfs", "s3://new/volume", "--encrypt", *there)
    from_here = ("--source-endpoint-url", rclone_s3.endpoint_url, "--source-profile", "old")
    report = machine.report("copy", old.url, "s3://new/volume", "--verify", *there, *from_here)
    assert len(report["snapshots"]) == 3
    assert (report["verified"]["differences"], report["problems"]) == (0, [])
    listed = machine.report("snapshot", "list", "s3://new/volume", *there)
    assert [one["name"] for one in listed] == ["first", None, "third"]
    machine.run("fsck", "s3://new/volume", "--verify-data", *there)
    (tmp_path / "out").mkdir()
    machine.run("snapshot", "extract", "s3://new/volume", listed[0]["id"], "/", tmp_path / "out", *there)
    assert (tmp_path / "out" / "noise").read_bytes() == noise(1, 5_000_000)


def test_both_sides_have_their_secrets(volumes: Pair, machine: TemporaryVolume) -> None:
    source, destination = (volumes.make(encrypt=True, block_size_bytes=64 * 1024) for _ in range(2))
    two_files(source)
    urls = (source.settings.url, destination.settings.url)
    secrets = ("--key-file", str(destination.key_file), "--source-key-file", str(source.key_file))
    printed = machine.run("copy", *urls, *secrets)
    assert printed.splitlines()[0].startswith("snapshot 00000001-0000000001 is copied as 00000001-0000000001  20")
    with pytest.raises(MountError, match=f"does not open {urls[0]}"):
        machine.run(
            "copy", *urls, "--source-key-file", str(destination.key_file), "--key-file", str(destination.key_file)
        )
    with pytest.raises(MountError, match="there is no terminal to ask at"):
        machine.run("copy", *urls, "--key-file", str(destination.key_file))


def test_losses_are_an_exit_status_and_a_line(volumes: Pair, machine: TemporaryVolume) -> None:
    two_files(volumes.source)
    next((volumes.source.store / "packs").rglob("*/*")).unlink()
    destination = volumes.make()
    with pytest.raises(MountError, match="blocks that the source has lost"):
        machine.run("copy", volumes.source.settings.url, destination.settings.url)
