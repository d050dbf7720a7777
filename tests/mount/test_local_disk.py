# SPDX-License-Identifier: GPL-3.0-or-later
"""A local disk that others fill, an index that others lock, folders that cannot be written."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.mount.conftest import TIMEOUT_S, CliMachine, wait_for_exit


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("a small disk of its own needs root")
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(path: Path) -> None:
    """Use all the space that is left on a disk."""
    with open(path, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1 << 16))


def write_durably(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_when_possible(path: Path, data: bytes) -> None:
    """Write and sync as soon as that is possible."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            write_durably(path, data)
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.EIO), error
            assert time.monotonic() < deadline_s, error
            time.sleep(0.1)
        else:
            return


@pytest.mark.promise("a-full-disk-costs-no-synced-data")
def test_a_disk_filled_by_others_loses_no_synced_data(machine: CliMachine) -> None:
    with small_disk(machine.state, "200m"):
        machine.mkfs()
        pid = machine.mount()
        for number in range(20):
            write_durably(machine.dir / f"before {number}", b"%d" % number * 30_000)
        fill(machine.state / "of another")
        refused = False
        for number in range(200):
            try:
                write_durably(machine.dir / f"meanwhile {number}", b"%d" % number * 30_000)
            except OSError as error:
                assert error.errno in (errno.ENOSPC, errno.EIO)
                refused = True
                break
        assert refused
        synced = number
        (machine.state / "of another").unlink()
        write_when_possible(machine.dir / "afterwards", b"space again")
        machine.kill(pid)
        machine.run("umount", machine.dir)
        machine.mount()
        for word, count in (("before", 20), ("meanwhile", synced)):
            for number in range(count):
                assert (machine.dir / f"{word} {number}").read_bytes() == b"%d" % number * 30_000
        assert (machine.dir / "afterwards").read_bytes() == b"space again"
        machine.umount()
        assert machine.report("fsck", machine.url, "--verify-data")["status"] == 0


@pytest.mark.promise("a-full-cache-disk-fails-nobody")
def test_a_full_cache_disk_fails_no_operation(machine: CliMachine) -> None:
    with small_disk(machine.cache, "4m"):
        machine.mkfs()
        machine.mount()
        fill(machine.cache / "of another")
        data = os.urandom(8_000_000)
        (machine.dir / "file").write_bytes(data)
        machine.run("flush", machine.dir)
        machine.umount()
        machine.mount()
        assert (machine.dir / "file").read_bytes() == data
        machine.umount()


@pytest.mark.promise("a-locked-index-is-waited-for")
def test_commit_waits_for_a_locked_index(machine: CliMachine) -> None:
    machine.mkfs()
    pid = machine.mount()
    index = next(machine.state.glob("*/index.sqlite"))
    with closing(sqlite3.connect(index, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        (machine.dir / "file").write_bytes(b"x" * 1000)  # the commit waits
        time.sleep(1)
        other.execute("ROLLBACK")
    write_durably(machine.dir / "synced", b"y" * 1000)
    machine.kill(pid)
    machine.run("umount", machine.dir)
    machine.mount()
    assert (machine.dir / "file").read_bytes() == b"x" * 1000
    assert (machine.dir / "synced").read_bytes() == b"y" * 1000
    machine.umount()


@pytest.mark.promise("an-unwritable-state-folder-is-reported")
@pytest.mark.encryption("plain", "encrypted")
def test_an_unwritable_state_directory_is_reported(machine: CliMachine) -> None:
    """The volume is not claimed."""
    machine.mkfs()
    machine.mount()
    (machine.dir / "file").write_bytes(b"x")
    machine.umount()
    if os.geteuid() != 0:
        pytest.skip("a read-only bind mount needs root")
    subprocess.run(["mount", "--bind", machine.state, machine.state], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", machine.state], check=True)
        assert "Read-only file system" in machine.fail("mount", machine.url, machine.dir, status=2)
    finally:
        subprocess.run(["umount", machine.state], check=True)
    machine.mount()
    assert (machine.dir / "file").read_bytes() == b"x"
    machine.umount()


def mount_with_fault(fault: str, flag: Path, machine: CliMachine, text: str = "") -> int:
    """Mount; while the file `flag` exists, statements of the index that contain `text` fail. Returns the process id."""
    places = {"CAS3FS_STATE_DIR": str(machine.state), "CAS3FS_CACHE_DIR": str(machine.cache)}
    command = [sys.executable, "-m", "cas3fs.testing.sqlite_faults", fault, flag, f"index.sqlite:{text}"]
    subprocess.run(
        [*command, "mount", machine.url, machine.dir], env=machine.environment | places, check=True, timeout=TIMEOUT_S
    )
    pid = int(json.loads(next(machine.state.glob("*/mount.json")).read_text())["pid"])
    machine.pids.append(pid)
    return pid


@pytest.mark.promise("a-mount-ends-when-all-is-durable", "a-mount-that-ends-leaves-nothing-in-memory")
@pytest.mark.parametrize("ended_by", ["umount", "signal"])
def test_a_mount_retries_its_failed_last_commit(machine: CliMachine, ended_by: str) -> None:
    machine.mkfs()
    flag = machine.root / "full"
    pid = mount_with_fault("FULL", flag, machine)
    (machine.dir / "kept").write_bytes(b"old")
    machine.run("flush", machine.dir)
    (machine.dir / "new").write_bytes(b"in memory only")
    (machine.dir / "kept").rename(machine.dir / "renamed")
    flag.touch()
    assert "no space left on its disk" in machine.fail("umount", machine.dir)
    assert "no space left on its disk" in machine.report("stats", machine.dir)["not_on_disk_reason"]
    if ended_by == "umount":
        subprocess.run(["umount", machine.dir], check=True)
    else:
        os.kill(pid, signal.SIGTERM)
    wait_for_log(machine, "the local disk cannot be written, next try")
    assert "no space left on its disk" in machine.report("stats", machine.url)["not_on_disk_reason"]
    assert "not on the local disk" in machine.run("stats", machine.url).stdout
    flag.unlink()
    wait_for_exit(pid)
    machine.mount()
    assert {path.name: path.read_bytes() for path in machine.dir.iterdir()} == {
        "new": b"in memory only",
        "renamed": b"old",
    }
    machine.umount()


def wait_for_log(machine: CliMachine, words: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while words not in machine.log():
        assert time.monotonic() < deadline_s, machine.log()
        time.sleep(0.05)


@pytest.mark.promise("background-work-survives-exceptions")
def test_stats_shows_age_of_newest_snapshot_and_last_error(machine: CliMachine) -> None:
    machine.mkfs()
    flag = machine.root / "full"
    mount_with_fault("FULL", flag, machine)
    (machine.dir / "file").write_bytes(b"x")
    assert machine.report("stats", machine.dir)["snapshots"] == {"newest_age_s": None}
    machine.run("flush", machine.dir)
    (machine.dir / "other").write_bytes(b"x")
    flag.touch()
    wait_for_log(machine, "commit failed")
    flag.unlink()
    report = machine.report("stats", machine.dir)
    assert 0 <= report["snapshots"]["newest_age_s"] < TIMEOUT_S
    assert "no space left on its disk" in report["troubles"]["commits"]["error"]
    output = machine.run("stats", machine.dir).stdout
    assert "s ago" in output
    assert "last error of commits" in output
    machine.umount()


FAILING_FDATASYNC = """
import os, runpy, sys
real, flag = os.fdatasync, sys.argv.pop(1)
def fdatasync(descriptor):
    if os.path.exists(flag):
        raise OSError(5, "Input/output error")
    real(descriptor)
os.fdatasync = fdatasync
runpy.run_module("cas3fs", run_name="__main__", alter_sys=True)
"""


@pytest.mark.promise("a-disk-that-lost-a-commit-ends-the-mount")
def test_a_lost_commit_ends_the_mount_with_an_error(machine: CliMachine) -> None:
    """No retry could prove that the committed data is on the disk."""
    machine.mkfs()
    flag = machine.root / "broken"
    places = {"CAS3FS_STATE_DIR": str(machine.state), "CAS3FS_CACHE_DIR": str(machine.cache)}
    with subprocess.Popen(
        [sys.executable, "-c", FAILING_FDATASYNC, flag, "mount", machine.url, machine.dir, "--foreground"],
        env=machine.environment | places,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        machine.pids.append(process.pid)
        assert process.stderr is not None
        while "mounted" not in process.stderr.readline():
            assert process.poll() is None
        (machine.dir / "file").write_bytes(b"x")
        flag.touch()
        subprocess.run(["umount", machine.dir], check=True)
        _, output = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "an earlier write to the disk failed" in output
    assert "Traceback" not in output
    machine.mount()
    assert (machine.dir / "file").read_bytes() == b"x"
    machine.umount()


@pytest.mark.promise("values-are-checked-at-the-border")
def test_umount_reports_changes_that_the_index_rejected(machine: CliMachine) -> None:
    machine.mkfs()
    flag = machine.root / "refusing"
    pid = mount_with_fault("CONSTRAINT", flag, machine, "UPDATE inodes SET mode")
    (machine.dir / "file").write_bytes(b"x")
    machine.run("flush", machine.dir)
    (machine.dir / "file").chmod(0o600)
    (machine.dir / "other").write_bytes(b"y")
    flag.touch()
    assert "not as programs left them" in machine.fail("umount", machine.dir)
    wait_for_exit(pid)
    machine.mount()
    assert (machine.dir / "file").stat().st_mode & 0o777 == 0o644
    assert (machine.dir / "other").read_bytes() == b"y"
    machine.umount()
