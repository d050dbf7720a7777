# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount whose writes are collected by the kernel (``--writeback``) keeps what programs rely on."""

import errno
import mmap
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import TIMEOUT_S, CliMachine, new_bucket, wait_for_exit

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer

pytestmark = pytest.mark.frontend("kernel", lacks="--writeback")
DATA = os.urandom(3_000_001)
PIECE = 100


@pytest.fixture
def mounted(machine: CliMachine) -> CliMachine:
    """A mount with ``--writeback``."""
    machine.mkfs()
    machine.mount("--writeback", "--snapshot-interval", "0")
    return machine


def _remount(machine: CliMachine) -> None:
    machine.umount()
    machine.mount("--writeback")


def _from_snapshot(machine: CliMachine, snapshot: str, name: str) -> Path:
    out = machine.root / f"out-{snapshot}"
    machine.run("snapshot", "extract", machine.url, snapshot, f"/{name}", out)
    return out


def test_small_writes_are_collected(mounted: CliMachine) -> None:
    """A thousand writes of one file are a few requests."""
    with open(mounted.dir / "file", "wb", buffering=0) as file:
        file.writelines(DATA[start : start + PIECE] for start in range(0, 1000 * PIECE, PIECE))
    assert (mounted.dir / "file").read_bytes() == DATA[: 1000 * PIECE]
    assert mounted.report("stats", mounted.url)["kernel_requests"]["write"] < 20
    _remount(mounted)
    assert (mounted.dir / "file").read_bytes() == DATA[: 1000 * PIECE]
    mounted.umount()


@pytest.mark.promise("collected-writes-are-kept")
@pytest.mark.parametrize("command", [("flush",), ("snapshot", "create")], ids=["flush", "snapshot"])
def test_a_snapshot_holds_what_was_written_before(mounted: CliMachine, command: tuple[str, ...]) -> None:
    """Although the file is still open, and the kernel has not been asked for its pages; with its times, too."""
    with open(mounted.dir / "file", "wb", buffering=0) as file:
        file.write(DATA)
        written_ns = os.fstat(file.fileno()).st_mtime_ns
        reply = mounted.report(*command, mounted.url)
        found = _from_snapshot(mounted, reply.get("snapshot") or reply["id"], "file")
        file.write(b"later")
    assert found.read_bytes() == DATA
    assert found.stat().st_mtime_ns == written_ns
    assert (mounted.dir / "file").read_bytes() == DATA + b"later"
    mounted.umount()


@pytest.mark.promise("collected-writes-are-kept")
def test_sigterm_keeps_what_was_written_to_open_files(mounted: CliMachine) -> None:
    descriptor = os.open(mounted.dir / "file", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, DATA)
    os.kill(mounted.pids[-1], signal.SIGTERM)
    wait_for_exit(mounted.pids[-1])
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        os.close(descriptor)
    mounted.mount()
    assert (mounted.dir / "file").read_bytes() == DATA
    mounted.umount()


@pytest.mark.promise("collected-writes-are-kept")
def test_what_was_synced_survives_a_kill_of_the_process(mounted: CliMachine) -> None:
    descriptor = os.open(mounted.dir / "file", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, DATA)
    os.fsync(descriptor)
    os.write(descriptor, b"not synced")
    mounted.kill(mounted.pids[-1])
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        os.close(descriptor)
    mounted.run("umount", mounted.dir)
    mounted.mount()
    assert (mounted.dir / "file").read_bytes()[: len(DATA)] == DATA
    mounted.umount()


@pytest.mark.promise("collected-writes-are-kept")
def test_a_handle_for_writing_only_changes_parts_of_pages(mounted: CliMachine) -> None:
    """The kernel reads the rest of a page through that handle; the program still may not."""
    path = mounted.dir / "file"
    path.write_bytes(DATA)
    _remount(mounted)
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, b"new", 5000)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.read(descriptor, 1)
    os.close(descriptor)
    _remount(mounted)
    assert path.read_bytes() == DATA[:5000] + b"new" + DATA[5003:]
    mounted.umount()


@pytest.mark.promise("collected-writes-are-kept")
def test_appends_of_several_programs_are_all_kept(mounted: CliMachine) -> None:
    path = mounted.dir / "log"
    code = "import os, sys; f = os.open(sys.argv[1], 1025); [os.write(f, sys.argv[2].encode()) for _ in range(500)]"
    path.touch()
    programs = [subprocess.Popen([sys.executable, "-c", code, path, f"{n}" * 9 + "\n"]) for n in range(4)]
    assert [program.wait(TIMEOUT_S) for program in programs] == [0] * 4
    _remount(mounted)
    assert sorted(path.read_text().splitlines()) == sorted(f"{n}" * 9 for n in range(4) for _ in range(500))
    mounted.umount()


@pytest.mark.promise("collected-writes-are-kept")
def test_times_stay_as_programs_have_seen_them(mounted: CliMachine) -> None:
    """Those of writes, of a mapping, of utimens while pages are dirty, and of a chmod; also after a remount."""
    paths = [mounted.dir / name for name in ("written", "mapped", "set", "mode", "cut")]
    for path in paths:
        path.write_bytes(DATA[:10_000])
    with open(paths[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:3] = b"new"
    with open(paths[2], "r+b", buffering=0) as file:
        file.write(b"dirty")
        os.utime(paths[2], ns=(1_000_000_001, 2_000_000_002))
    paths[3].chmod(0o600)
    os.truncate(paths[4], 5_000)
    before = [(path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in paths]
    assert before[2][1] == 2_000_000_002
    _remount(mounted)
    assert [(path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in paths] == before
    mounted.umount()


@pytest.mark.promise("collected-writes-are-kept")
def test_a_mapping_is_written_though_its_file_was_closed(mounted: CliMachine) -> None:
    path = mounted.dir / "file"
    path.write_bytes(bytes(20_000))
    with open(path, "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    mapped[5_000:5_003] = b"new"
    mapped.close()
    _remount(mounted)
    assert path.read_bytes() == bytes(5_000) + b"new" + bytes(14_997)
    mounted.umount()


@pytest.mark.promise("collected-writes-are-kept")
def test_dirty_pages_are_no_holes_and_are_copied(mounted: CliMachine) -> None:
    """SEEK_DATA and copy_file_range see what no request has brought yet, in front of and behind a hole."""
    with open(mounted.dir / "file", "w+b", buffering=0) as file, open(mounted.dir / "copy", "w+b") as copy:
        file.write(DATA[:100])
        os.pwrite(file.fileno(), DATA[:100], 2_000_000)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 1_999_999, os.SEEK_DATA) <= 2_000_000
        copied = 0
        while done := os.copy_file_range(file.fileno(), copy.fileno(), 1_000_000, copied):
            copied += done
            if copied >= 2_000_100:
                break
    expected = DATA[:100] + bytes(1_999_900) + DATA[:100]
    assert (mounted.dir / "copy").read_bytes() == expected
    subprocess.run(["cp", "--sparse=auto", mounted.dir / "file", mounted.dir / "again"], check=True)
    _remount(mounted)
    for name in ("file", "copy", "again"):
        assert (mounted.dir / name).read_bytes() == expected
    mounted.umount()


@pytest.mark.skipif(os.geteuid() != 0, reason="acts for another user")
def test_a_write_of_another_user_clears_set_id_bits(mounted: CliMachine) -> None:
    path = mounted.dir / "program"
    path.write_bytes(DATA)
    path.chmod(0o6777)
    code = "import os, sys; f = os.open(sys.argv[1], 1); os.setgid(4711); os.setuid(4711); os.pwrite(f, b'x', 7)"
    subprocess.run([sys.executable, "-c", code, path], check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    _remount(mounted)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    assert path.read_bytes()[7:8] == b"x"
    mounted.umount()


def _can_write(path: Path) -> bool:
    try:
        path.write_bytes(b"fits")
    except OSError:
        return False
    return True


def test_a_full_local_disk_is_reported_by_fsync_or_close(small_disk: CliMachine, rclone_s3: "RcloneServer") -> None:
    small_disk.mkfs()
    small_disk.mount("--writeback", "--cache-size", "0")
    rclone_s3.pause()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), open(small_disk.dir / "large", "wb", 0) as file:
        file.writelines(os.urandom(1 << 20) for _ in range(56))
        os.fsync(file.fileno())
    rclone_s3.resume()
    (small_disk.dir / "large").unlink()
    deadline_s = time.monotonic() + TIMEOUT_S
    while not _can_write(small_disk.dir / "later"):
        assert time.monotonic() < deadline_s
    _remount(small_disk)
    assert (small_disk.dir / "later").read_bytes() == b"fits"
    small_disk.umount()


@pytest.mark.promise("work-goes-on-without-the-store")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="plain", marks=pytest.mark.frontend("kernel", "llfuse")),
        pytest.param(("--writeback",), id="writeback"),
    ],
)
def test_writers_wait_for_a_slow_store_without_an_error(
    need_fuse: None, encryption: str, rclone_s3: "RcloneServer", workspace: Path, options: tuple[str, ...]
) -> None:
    """They are more than the threads of a pool; reading and syncing other files goes on meanwhile."""
    machine = CliMachine(workspace, f"s3://{new_bucket(rclone_s3, workspace)}/v", rclone_s3.environment)
    code = "import os, sys; f = open(sys.argv[1], 'wb', 0); f.write(bytes(4 << 20)); os.fsync(f.fileno())"
    names = [f"large{number}" for number in range(12)]
    try:
        machine.mkfs()
        machine.mount("--staging-size", "16MiB", "--cache-size", "0", *options)
        (machine.dir / "other").write_bytes(b"before")
        rclone_s3.pause()
        writers = [subprocess.Popen([sys.executable, "-c", code, machine.dir / name]) for name in names]
        deadline_s = time.monotonic() + TIMEOUT_S
        while machine.report("stats", machine.url)["pending"]["size_bytes"] < 16 << 20:
            assert time.monotonic() < deadline_s
        for number in range(5):
            with open(machine.dir / "other", "r+b", 0) as file:
                os.fsync(file.fileno())
            assert (machine.dir / "other").read_bytes() == b"before"
            (machine.dir / f"{number}").mkdir()
        assert any(writer.poll() is None for writer in writers)
        rclone_s3.resume()
        assert [writer.wait(3 * TIMEOUT_S) for writer in writers] == [0] * len(writers)
        assert [(machine.dir / name).stat().st_size for name in names] == [4 << 20] * len(names)
        machine.umount()
    finally:
        rclone_s3.resume()
        machine.clean_up()
