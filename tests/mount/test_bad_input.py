# SPDX-License-Identifier: GPL-3.0-or-later
"""Invalid input gets one clear line and an exit status, and loses nothing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import CliMachine, new_bucket, wait_for_exit

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer, S3Server


@pytest.fixture
def volume(machine: CliMachine) -> CliMachine:
    machine.mkfs()
    return machine


def test_missing_folder(machine: CliMachine) -> None:
    assert "/nowhere" in machine.fail("mkfs", "--no-encrypt", "file:///nowhere/at/all")
    assert "/nowhere" in machine.fail("mount", "file:///nowhere/at/all", machine.dir)


def test_folder_without_a_volume(machine: CliMachine) -> None:
    assert "there is no volume" in machine.fail("mount", machine.url, machine.dir)
    assert "there is no volume" in machine.fail("stats", machine.url)


def test_a_name_that_is_neither_url_nor_path(machine: CliMachine) -> None:
    assert "file:///" in machine.fail("mkfs", "--no-encrypt", "some/where", status=2)


def test_missing_bucket(machine: CliMachine, rclone_s3: "RcloneServer") -> None:
    machine.environment |= rclone_s3.environment
    assert "no-such-bucket" in machine.fail("mkfs", "--no-encrypt", "s3://no-such-bucket/v", "--allow-unfenced")


def test_wrong_credentials(machine: CliMachine, rclone_s3: "RcloneServer") -> None:
    bucket = new_bucket(rclone_s3, machine.root)
    machine.environment |= rclone_s3.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    line = machine.fail("mkfs", "--no-encrypt", f"s3://{bucket}/v", "--allow-unfenced")
    assert "credentials" in line or "denied" in line.lower()


def test_mkfs_reports_a_store_without_conditional_writes(machine: CliMachine, rclone_s3: "RcloneServer") -> None:
    machine.environment |= rclone_s3.environment
    assert "--allow-unfenced" in machine.fail("mkfs", "--no-encrypt", f"s3://{new_bucket(rclone_s3, machine.root)}/v")


def test_mkfs_accepts_a_store_with_conditional_writes(machine: CliMachine, moto_s3: "S3Server") -> None:
    moto_s3.make_bucket("fenced")
    machine.environment |= moto_s3.environment
    assert machine.report("mkfs", "--no-encrypt", "s3://fenced/v")["fenced"] is True


def test_mkfs_over_an_existing_volume(volume: CliMachine) -> None:
    assert "there is a volume" in volume.fail("mkfs", "--no-encrypt", volume.url)
    volume.mount()
    volume.umount()


def test_volume_of_a_newer_format(machine: CliMachine) -> None:
    from datetime import UTC, datetime
    from uuid import uuid4

    from cas3fs.config import StoreSettings
    from cas3fs.entries.kinds import VOLUME_FORMAT, VolumeEntry
    from cas3fs.entries.shelf import Shelf
    from cas3fs.metrics import Metrics
    from cas3fs.objectstores import open_store

    entry = VolumeEntry(
        uuid=uuid4(),
        format=VOLUME_FORMAT + 1,
        created=datetime.now(UTC),
        chunker="fastcdc",
        block_size=1 << 20,
        pack_size=1 << 24,
        compression="none",
    )
    Shelf(open_store(StoreSettings(machine.url), metrics=Metrics())).save(entry)
    line = machine.fail("mount", machine.url, machine.dir)
    assert f"format {VOLUME_FORMAT + 1}" in line
    assert "newer" in line


@pytest.mark.promise("commands-wait-for-signs-of-life")
def test_umount_by_url_cleans_up_a_stale_mount(volume: CliMachine) -> None:
    volume.kill(volume.mount())
    assert "the mount is removed" in volume.run("umount", volume.url).stdout
    volume.mount()
    volume.umount()


def test_missing_mount_point(volume: CliMachine) -> None:
    assert "does not exist" in volume.fail("mount", volume.url, volume.root / "nowhere")


def test_mount_point_is_a_file(volume: CliMachine) -> None:
    (volume.root / "file").touch()
    assert "is not a folder" in volume.fail("mount", volume.url, volume.root / "file")


def test_mount_point_is_not_empty(volume: CliMachine) -> None:
    (volume.dir / "file").write_text("mine")
    assert "is not empty" in volume.fail("mount", volume.url, volume.dir)
    volume.mount("-o", "nonempty")
    assert list(volume.dir.iterdir()) == []
    volume.umount()
    assert (volume.dir / "file").read_text() == "mine"


def test_mount_point_is_already_mounted(volume: CliMachine) -> None:
    volume.mount()
    line = volume.fail("mount", volume.url, volume.dir)
    assert "already" in line
    assert volume.url in line
    volume.umount()


def test_state_directory_in_use(volume: CliMachine) -> None:
    pid = volume.mount()
    (volume.root / "other").mkdir()
    line = volume.fail("mount", volume.url, volume.root / "other")
    assert str(pid) in line
    (volume.dir / "file").write_text("still works")
    volume.umount()


def test_volume_held_by_another_state_directory(volume: CliMachine) -> None:
    volume.mount()
    line = volume.fail("mount", volume.url, volume.root / "v", "-o", "nonempty", "--state-dir", volume.root / "else")
    assert "held" in line
    volume.umount()


def test_unknown_mount_option(volume: CliMachine) -> None:
    line = volume.fail("mount", volume.url, volume.dir, "-o", "no_such_option")
    assert "no_such_option" in line
    volume.mount()
    volume.umount()


def test_umount_of_a_folder_that_is_not_mounted(volume: CliMachine) -> None:
    assert "is not a mount of cas3fs" in volume.fail("umount", volume.dir)
    assert "not a mount" in volume.fail("umount", volume.root / "nowhere")


@pytest.mark.promise("commands-wait-for-signs-of-life")
def test_umount_by_url(volume: CliMachine) -> None:
    pid = volume.mount()
    with open(volume.dir / "file", "w"):
        assert "in use" in volume.fail("umount", volume.url)
    volume.run("umount", volume.url)
    wait_for_exit(pid)
    assert not os.path.ismount(volume.dir)
    assert f"{volume.url} is not mounted on this machine" in volume.fail("umount", volume.url)


def test_umount_of_a_busy_mount_names_the_process(volume: CliMachine) -> None:
    volume.mount()
    with open(volume.dir / "file", "w") as file:
        line = volume.fail("umount", volume.dir)
        assert "in use" in line
        assert f"pid {os.getpid()}" in line
        file.write("goes on")
    assert (volume.dir / "file").read_text() == "goes on"
    volume.umount()


def test_umount_from_inside_the_mount(volume: CliMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.mount()
    with monkeypatch.context() as within:
        within.chdir(volume.dir)
        assert "this command (go to another directory)" in volume.fail("umount", volume.dir)
    volume.umount()


def test_flush_of_an_unmounted_volume(volume: CliMachine) -> None:
    assert "not mounted" in volume.fail("flush", volume.url)


def test_flush_and_stats_accept_url_or_mount_point(volume: CliMachine) -> None:
    volume.mount()
    (volume.dir / "file").write_bytes(bytes(100_000))
    first = volume.report("flush", volume.url)
    assert volume.report("stats", volume.url)["logical_bytes"] == 100_000
    assert volume.report("flush", volume.dir) == first
    assert "file" in volume.run("stats", volume.dir).stdout
    volume.umount()


def test_stats_of_an_unmounted_volume(volume: CliMachine) -> None:
    assert volume.report("stats", volume.url)["files"] == 0
    volume.mount()
    (volume.dir / "file").write_bytes(os.urandom(100_000))
    volume.umount()
    here = volume.report("stats", volume.url)
    assert (here["files"], here["logical_bytes"], here["unique_bytes"]) == (1, 100_000, 100_000)
    volume.forget_everything()
    assert volume.report("stats", volume.url) == here


def test_read_only_mount_beside_the_writer(volume: CliMachine) -> None:
    volume.mount()
    (volume.dir / "file").write_text("published")
    volume.run("flush", volume.dir)
    (volume.dir / "later").write_text("not yet")
    view = CliMachine(volume.root / "view", volume.url, {})
    view.state = volume.state
    try:
        view.run("mount", view.url, view.dir, "--read-only")
        assert {path.name: path.read_text() for path in view.dir.iterdir()} == {"file": "published"}
        with pytest.raises(OSError, match="Read-only"):
            (view.dir / "file").write_text("x")
        assert "read-only" in view.fail("flush", view.dir)
        view.run("umount", view.dir)
    finally:
        view.clean_up()
    volume.umount()
    assert not list(volume.state.glob("*/views/*"))


def test_foreground_mount_exits_0_after_sigterm(volume: CliMachine) -> None:
    places = {"CAS3FS_STATE_DIR": str(volume.state), "CAS3FS_CACHE_DIR": str(volume.cache)}
    command = [sys.executable, "-m", "cas3fs", "mount", "--foreground", volume.url, str(volume.dir)]
    with subprocess.Popen(command, env=volume.environment | places, stderr=subprocess.PIPE, text=True) as process:
        volume.pids.append(process.pid)
        assert process.stderr is not None
        assert "mounted" in process.stderr.readline()
        Path(volume.dir / "file").write_text("x")
        process.terminate()
        assert process.wait(60) == 0
    assert not os.path.ismount(volume.dir)


@pytest.mark.promise("values-are-checked-at-the-border", "times-have-64-bits")
def test_times_out_of_range_are_clamped(volume: CliMachine) -> None:
    """Any user may set such times; they become the nearest representable time, and no other operation is affected."""
    if os.geteuid() != 0:
        pytest.skip("acting as another user needs root")
    pid = volume.mount()
    volume.dir.chmod(0o777)
    wanted = {
        "1601": "1601-01-01T00:00:00Z",
        "2300": "2300-01-01T00:00:00Z",
        "end": "@9223372036854775807",
        "begin": "@-9223372036854775808",
        "1970": "1969-12-31T23:59:59.5Z",
    }
    for name, time in wanted.items():
        subprocess.run(["touch", "-d", time, name], cwd=volume.dir, check=True, user=65534, group=65534)
    kept_ns = {
        "1601": -(2**63),
        "2300": 2**63 - 1,
        "end": 2**63 - 1,
        "begin": -(2**63),
        "1970": -500_000_000,
    }
    assert {name: (volume.dir / name).stat().st_mtime_ns for name in wanted} == kept_ns
    descriptor = os.open(volume.dir / "of another", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"synced")
    os.fsync(descriptor)
    os.close(descriptor)
    volume.kill(pid)
    volume.run("umount", volume.dir)
    volume.mount()
    assert (volume.dir / "of another").read_bytes() == b"synced"
    assert {name: (volume.dir / name).stat().st_atime_ns for name in wanted} == kept_ns
    volume.umount()
    target = volume.root / "extracted"
    newest = volume.report("snapshot", "list", volume.url)[-1]["id"]
    volume.run("snapshot", "extract", volume.url, newest, "/", target)
    assert (target / "1970").stat().st_mtime_ns == kept_ns["1970"]
    assert (target / "of another").read_bytes() == b"synced"


@pytest.mark.promise("values-are-checked-at-the-border")
def test_files_of_the_maximum_size(volume: CliMachine) -> None:
    """Their sizes add up to more than 64 bits; they are counted, published and restored."""
    volume.mount()
    for number in range(5):
        with open(volume.dir / f"f{number}", "wb") as file:
            file.truncate(2**63 - 1)
    volume.run("flush", volume.dir)
    assert volume.report("stats", volume.dir)["logical_bytes"] == 5 * (2**63 - 1)
    assert os.statvfs(volume.dir).f_blocks > 0
    volume.umount()
    volume.forget_everything()
    volume.mount()
    assert {path.stat().st_size for path in volume.dir.iterdir()} == {2**63 - 1}
    assert volume.report("fsck", volume.dir)["status"] == 0
    volume.umount()
    assert volume.report("snapshot", "list", volume.url)
