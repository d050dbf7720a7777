# SPDX-License-Identifier: GPL-3.0-or-later
"""A killed process, a full disk, an outage of the store: promises are kept, and the mount continues."""

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.posix.calls import name_to_handle_at, open_by_handle_at

from .conftest import TIMEOUT_S, CliMachine, new_bucket, wait_for_exit

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer


def write_durably(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def until(happened: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not happened():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


@pytest.mark.frontend("kernel", "llfuse")
@pytest.mark.promise("synced-data-survives-a-crash")
def test_synced_data_survives_a_kill_and_is_stored_later(machine: CliMachine) -> None:
    machine.mkfs()
    pid = machine.mount()
    data = os.urandom(700_000)
    (machine.dir / "folder").mkdir()
    write_durably(machine.dir / "folder" / "file", data)
    machine.kill(pid)
    assert "the mount is removed" in machine.run("umount", machine.dir).stdout
    machine.mount()
    assert (machine.dir / "folder" / "file").read_bytes() == data
    machine.umount()
    machine.forget_everything()
    machine.mount()
    assert (machine.dir / "folder" / "file").read_bytes() == data
    machine.umount()


@pytest.mark.frontend("kernel", "llfuse")
def test_the_error_for_a_stale_mount_names_the_remedy(machine: CliMachine) -> None:
    machine.mkfs()
    machine.kill(machine.mount())
    assert f"cas3fs umount {machine.dir}" in machine.fail("mount", machine.url, machine.dir)
    machine.run("umount", machine.dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may open by handle")
@pytest.mark.promise("handles-are-stable")
def test_the_handle_of_a_lost_file_leads_to_no_other_file(machine: CliMachine) -> None:
    """A number that a crash has freed is used again, by an inode of another generation."""
    machine.mkfs()
    pid = machine.mount()
    write_durably(machine.dir / "kept", b"x")
    (machine.dir / "lost").touch()
    kept, lost = (name_to_handle_at(machine.dir / name) for name in ("kept", "lost"))
    number = (machine.dir / "lost").stat().st_ino
    machine.kill(pid)
    machine.run("umount", machine.dir)
    machine.mount()
    (machine.dir / "other").touch()
    assert (machine.dir / "other").stat().st_ino == number
    with open(machine.dir / "kept") as known:
        os.close(open_by_handle_at(known.fileno(), kept, os.O_RDONLY))
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            open_by_handle_at(known.fileno(), lost, os.O_RDONLY)
    machine.umount()


@pytest.mark.frontend("kernel", "llfuse")
def test_auto_unmount_leaves_no_stale_mount_after_a_kill(machine: CliMachine) -> None:
    machine.mkfs()
    pid = machine.mount("-o", "auto_unmount")
    write_durably(machine.dir / "file", b"kept")
    machine.kill(pid)

    def is_gone() -> bool:
        return str(machine.dir) not in Path("/proc/self/mounts").read_text()

    until(is_gone, "the mount is still there")
    machine.mount("-o", "auto_unmount")
    assert (machine.dir / "file").read_bytes() == b"kept"
    machine.umount()
    assert is_gone()


@pytest.mark.frontend("kernel", "llfuse")
def test_an_unlinked_open_file_is_gone_after_a_kill(machine: CliMachine) -> None:
    machine.mkfs()
    pid = machine.mount()
    file = os.open(machine.dir / "file", os.O_CREAT | os.O_WRONLY)
    os.write(file, b"x" * 100_000)
    (machine.dir / "file").unlink()
    os.fsync(file)
    machine.kill(pid)
    with pytest.raises(OSError, match="not connected"):
        os.close(file)
    machine.run("umount", machine.dir)
    machine.mount()
    assert list(machine.dir.iterdir()) == []
    assert machine.report("stats", machine.dir)["files"] == 0
    machine.umount()


@pytest.mark.frontend("kernel", "llfuse")
def test_umount_returns_after_the_process_has_ended(machine: CliMachine) -> None:
    """The process has published a snapshot and released the volume by then."""
    machine.mkfs()
    pid = machine.mount()
    (machine.dir / "file").write_bytes(os.urandom(5_000_000))
    machine.umount()
    wait_for_exit(pid, timeout_s=0)
    assert not os.path.ismount(machine.dir)
    volume = machine.root / "v"
    assert len(list((volume / "snapshots").iterdir())) == 1
    assert (volume / "epochs" / "00000001.released").exists()


@pytest.mark.frontend("kernel", "llfuse")
def test_umount_by_the_system_publishes_and_releases(machine: CliMachine) -> None:
    machine.mkfs()
    pid = machine.mount()
    (machine.dir / "file").write_text("x")
    subprocess.run(["umount", machine.dir], check=True)
    wait_for_exit(pid)
    machine.forget_everything()
    machine.mount()
    assert (machine.dir / "file").read_text() == "x"
    machine.umount()


@pytest.mark.frontend("kernel", "llfuse")
def test_sigterm_unmounts_publishes_and_releases(machine: CliMachine) -> None:
    machine.mkfs()
    pid = machine.mount()
    (machine.dir / "file").write_text("x")
    os.kill(pid, signal.SIGTERM)
    wait_for_exit(pid)
    assert not os.path.ismount(machine.dir)
    assert (machine.root / "v" / "epochs" / "00000001.released").exists()
    machine.forget_everything()
    machine.mount()
    assert (machine.dir / "file").read_text() == "x"
    machine.umount()


@pytest.mark.promise("snapshots-follow-an-interval")
def test_changes_are_published_at_the_interval_and_once(machine: CliMachine) -> None:
    machine.mkfs()
    machine.mount("--snapshot-interval", "100ms")
    snapshots = machine.root / "v" / "snapshots"
    (machine.dir / "file").write_text("x")
    until(lambda: machine.report("stats", machine.dir)["files"] == 1 and snapshots.is_dir(), "no snapshot is published")
    newest = machine.report("flush", machine.dir)["snapshot"]
    assert machine.report("flush", machine.dir)["snapshot"] == newest
    machine.umount()
    assert max(path.name for path in snapshots.iterdir()) >= newest


def packs(machine: CliMachine) -> set[Path]:
    return {path for path in (machine.root / "v" / "packs").rglob("*") if path.is_file()}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


@pytest.mark.promise("every-block-is-verified")
@pytest.mark.parametrize("harm", [Path.unlink, damage], ids=["missing", "damaged"])
def test_a_lost_block_affects_only_its_file(machine: CliMachine, harm: Callable[[Path], None]) -> None:
    machine.mkfs()
    machine.mount()
    good, bad = os.urandom(1_500_000), os.urandom(300_000)
    (machine.dir / "bad").write_bytes(bad)
    machine.run("flush", machine.dir)
    of_bad = packs(machine)
    (machine.dir / "good").write_bytes(good)
    machine.umount()
    machine.forget_everything()
    for pack in of_bad:
        harm(pack)
    machine.mount()
    with pytest.raises(OSError, match="Input/output error"):
        (machine.dir / "bad").read_bytes()
    assert (machine.dir / "good").read_bytes() == good
    (machine.dir / "bad").write_bytes(good)
    assert (machine.dir / "bad").read_bytes() == good
    machine.umount()


@pytest.mark.promise("a-full-disk-costs-no-synced-data")
def test_a_full_local_disk_fails_writes_but_not_the_mount(small_disk: CliMachine, rclone_s3: "RcloneServer") -> None:
    machine = small_disk
    machine.mkfs()
    machine.mount("--cache-size", "0")
    write_durably(machine.dir / "before", b"safe")
    rclone_s3.pause()
    written = 0
    with open(machine.dir / "big", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        for _ in range(100):
            written += file.write(os.urandom(1 << 20))
    assert (machine.dir / "before").read_bytes() == b"safe"
    rclone_s3.resume()
    (machine.dir / "big").unlink()

    def can_write() -> bool:
        try:
            (machine.dir / "after").write_bytes(b"space again")
        except OSError:
            return False
        return True

    until(can_write, "there is still no space")
    machine.umount()
    machine.mount("--cache-size", "0")
    assert {path.name: path.read_bytes() for path in machine.dir.iterdir()} == {
        "before": b"safe",
        "after": b"space again",
    }
    machine.umount()


@pytest.mark.promise("storing-resumes-by-itself")
def test_a_temporary_outage_of_the_store_fails_nothing(
    need_fuse: None, encryption: str, rclone_s3: "RcloneServer", workspace: Path
) -> None:
    machine = CliMachine(workspace, f"s3://{new_bucket(rclone_s3, workspace)}/v", rclone_s3.environment)
    try:
        machine.mkfs()
        machine.mount()
        rclone_s3.kill()
        data = os.urandom(2_000_000)
        write_durably(machine.dir / "file", data)
        umount = threading.Thread(target=machine.umount)
        umount.start()
        assert (machine.dir / "file").read_bytes() == data
        rclone_s3.start()
        umount.join(TIMEOUT_S)
        assert not os.path.ismount(machine.dir)
        machine.forget_everything()
        machine.mount()
        assert (machine.dir / "file").read_bytes() == data
        machine.umount()
    finally:
        machine.clean_up()
