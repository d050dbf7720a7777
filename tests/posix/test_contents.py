# SPDX-License-Identifier: GPL-3.0-or-later
"""Contents: open files, appends, mappings, holes, sizes, times, locks."""

import errno
import fcntl
import json
import mmap
import os
import resource
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount

from .calls import NOW, OMIT, utimensat
from .test_names import refused

pytestmark = pytest.mark.frontend("kernel", "llfuse")

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
LAST = 2**63 - 1


def peak_kib(mount: TemporaryMount) -> int:
    """The peak memory of the mount's process."""
    pid = json.loads(next(mount.volume.state_dir.glob("*/mount.json")).read_text())["pid"]
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


@pytest.mark.promise("open-files-outlive-their-names")
def test_an_unlinked_open_file_can_be_used(folder: Path) -> None:
    with open(folder / "f", "w+b") as file:
        file.write(b"x" * MIB)
        file.flush()
        (folder / "f").unlink()
        (folder / "f").write_text("another")
        file.write(b"more")
        file.flush()
        os.ftruncate(file.fileno(), MIB + 2)
        file.seek(MIB - 1)
        assert file.read() == b"xmo"
        about = os.fstat(file.fileno())
        assert (about.st_nlink, about.st_size) == (0, MIB + 2)
    assert (folder / "f").read_text() == "another"


@pytest.mark.frontend("kernel", lacks="O_TMPFILE")
@pytest.mark.promise("unnamed-files-work")
def test_a_file_without_a_name_can_be_given_one(folder: Path) -> None:
    file = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o640)
    assert (os.fstat(file).st_nlink, os.listdir(folder)) == (0, [])
    os.write(file, b"content")
    os.link(f"/proc/self/fd/{file}", folder / "f", src_dir_fd=file)  # with a directory Python follows the link
    assert (os.fstat(file).st_nlink, os.fstat(file).st_mode & 0o7777) == (1, 0o640)
    os.close(file)
    assert (folder / "f").read_bytes() == b"content"


@pytest.mark.frontend("kernel", lacks="O_TMPFILE")
@pytest.mark.promise("unnamed-files-work")
def test_no_other_file_without_a_name_gets_one(folder: Path) -> None:
    file = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
    with pytest.raises(FileNotFoundError):
        os.link(f"/proc/self/fd/{file}", folder / "f", src_dir_fd=file)
    os.close(file)
    (folder / "g").touch()
    file = os.open(folder / "g", os.O_RDWR)
    (folder / "g").unlink()
    with pytest.raises(FileNotFoundError):
        os.link(f"/proc/self/fd/{file}", folder / "f", src_dir_fd=file)
    os.close(file)
    assert os.listdir(folder) == []


@pytest.mark.promise("unnamed-files-work")
def test_tempfile_uses_files_without_a_name(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
        assert list(folder.iterdir()) == []


@pytest.mark.promise("open-files-outlive-their-names")
def test_a_replaced_open_file_can_be_used(folder: Path) -> None:
    (folder / "f").write_text("old")
    (folder / "g").write_text("new")
    with open(folder / "f") as file:
        (folder / "g").rename(folder / "f")
        assert file.read() == "old"
    assert (folder / "f").read_text() == "new"


@pytest.mark.promise("appending-loses-nothing")
def test_appends_through_several_handles_are_all_kept(folder: Path) -> None:
    def append(mark: bytes) -> None:
        with open(folder / "f", "ab", buffering=0) as file:
            for _ in range(200):
                assert file.write(mark * 700) == 700

    threads = [threading.Thread(target=append, args=(bytes([mark]),)) for mark in b"abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = (folder / "f").read_bytes()
    assert len(found) == 4 * 200 * 700
    pieces = [found[start : start + 700] for start in range(0, len(found), 700)]
    assert all(len(set(piece)) == 1 for piece in pieces)
    assert sorted(piece[:1] for piece in pieces) == sorted([b"a", b"b", b"c", b"d"] * 200)


@pytest.mark.promise("mappings-and-limits-work")
def test_a_shared_mapping_and_the_file_agree(folder: Path) -> None:
    with open(folder / "f", "w+b") as file:
        file.truncate(100_000)
        with mmap.mmap(file.fileno(), 100_000) as mapped:
            mapped[50_000:50_005] = b"hello"
            assert os.pread(file.fileno(), 5, 50_000) == b"hello"
            os.pwrite(file.fileno(), b"world", 60_000)
            assert mapped[60_000:60_005] == b"world"
            mapped.flush()
            with open(folder / "f", "rb") as other:
                assert other.read()[49_999:50_006] == b"\0hello\0"


@pytest.mark.promise("files-can-be-sparse")
def test_holes_beyond_4_gib_read_as_zeros(folder: Path, mount: TemporaryMount) -> None:
    with open(folder / "f", "w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"far", 5 * TIB)
        os.pwrite(file.fileno(), b"near", 4 * GIB - 2)
        mount.flush()
        assert os.pread(file.fileno(), 8, 4 * GIB - 4) == b"\0\0near\0\0"
        assert os.pread(file.fileno(), 10, 5 * TIB - 2) == b"\0\0far"
        assert os.pread(file.fileno(), 10, 3 * TIB) == bytes(10)
        assert os.fstat(file.fileno()).st_size == 5 * TIB + 3


@pytest.mark.promise("files-can-be-sparse")
def test_a_sparse_petabyte_file_uses_no_time_or_memory(folder: Path, mount: TemporaryMount) -> None:
    before_kib = peak_kib(mount)
    begun_s = time.monotonic()
    subprocess.run("truncate -s 999999999999999 f; rm f", shell=True, check=True, cwd=folder)
    (folder / "g").touch()
    os.truncate(folder / "g", 999_999_999_999_999)
    mount.flush()
    os.truncate(folder / "g", 5)
    (folder / "g").unlink()
    assert time.monotonic() - begun_s < 10
    assert peak_kib(mount) - before_kib < 32 * KIB


@pytest.mark.promise("files-can-be-sparse")
def test_the_maximum_file_size_is_2_to_the_63rd(folder: Path, mount: TemporaryMount) -> None:
    with open(folder / "f", "w+b", buffering=0) as file:
        assert os.pwrite(file.fileno(), b"z", LAST - 1) == 1
        assert os.fstat(file.fileno()).st_size == LAST
        assert os.pread(file.fileno(), 3, LAST - 3) == b"\0\0z"
        refused(errno.EINVAL, os.pwrite, file.fileno(), b"z", LAST)  # the limit of the kernel
        (folder / "g").touch()
        os.truncate(folder / "g", LAST)
        mount.flush()
        deadline_s = time.monotonic() + 30
        while os.statvfs(folder).f_blocks <= 2 * LAST // 4096:  # what it says may be some seconds old
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
        assert mount.stats()["logical_bytes"] > LAST
        os.truncate(folder / "g", 0)
        os.ftruncate(file.fileno(), 3)
    assert (folder / "f").read_bytes() == bytes(3)


@pytest.mark.promise("mappings-and-limits-work")
def test_rlimit_fsize_is_enforced(folder: Path) -> None:
    command = "ulimit -f 8; dd if=/dev/zero of=f bs=1k count=100 2>&1"
    done = subprocess.run(["/bin/bash", "-c", command], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert (folder / "f").stat().st_size == 8 * KIB
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.promise("files-can-be-sparse")
@pytest.mark.parametrize("how", ["always", "never"])
def test_cp_keeps_content_and_size_of_sparse_files(folder: Path, how: str) -> None:
    with open(folder / "f", "wb") as file:
        for part in range(4):
            file.seek(part * 8 * MIB)
            file.write(os.urandom(50_000))
        file.truncate(40 * MIB)
    subprocess.run(["cp", f"--sparse={how}", folder / "f", folder / "g"], check=True)
    subprocess.run(["cmp", folder / "f", folder / "g"], check=True)


@pytest.mark.promise("files-can-be-sparse")
def test_reads_at_and_beyond_the_end_are_empty(folder: Path) -> None:
    (folder / "f").write_bytes(b"abc")
    with open(folder / "f", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, 2) == b"c"
        assert os.pread(file.fileno(), 10, 3) == os.pread(file.fileno(), 10, TIB) == b""


@pytest.mark.promise("files-can-be-sparse")
def test_a_truncated_and_extended_range_reads_as_zeros(folder: Path, mount: TemporaryMount) -> None:
    (folder / "f").write_bytes(b"x" * 100_000)
    mount.flush()
    os.truncate(folder / "f", 50_001)
    os.truncate(folder / "f", 100_000)
    assert (folder / "f").read_bytes() == b"x" * 50_001 + bytes(49_999)


@pytest.mark.promise("mappings-and-limits-work")
def test_access_follows_the_open_flags(folder: Path) -> None:
    (folder / "f").write_bytes(b"abc")
    with open(folder / "f", "rb", buffering=0) as file:
        refused(errno.EBADF, os.pwrite, file.fileno(), b"x", 0)
        refused(errno.EINVAL, os.ftruncate, file.fileno(), 0)
    with open(folder / "f", "r+b", buffering=0) as file:
        (folder / "f").chmod(0)
        assert os.pwrite(file.fileno(), b"x", 0) == 1
        assert os.pread(file.fileno(), 3, 0) == b"xbc"
    refused(errno.EISDIR, os.open, folder, os.O_RDWR)
    refused(errno.ENOTDIR, os.open, folder / "f", os.O_DIRECTORY)
    refused(errno.EEXIST, os.open, folder / "f", os.O_CREAT | os.O_EXCL)
    refused(errno.ENXIO, _open_socketless_fifo, folder / "p")


def _open_socketless_fifo(path: Path) -> None:
    os.mkfifo(path)
    os.open(path, os.O_WRONLY | os.O_NONBLOCK)


@pytest.mark.promise("times-are-exact")
def test_utimensat_sets_exact_times_now_or_none(folder: Path) -> None:
    (folder / "f").touch()
    utimensat(folder / "f", (-5, 123_456_789), (2**33, 1))
    about = (folder / "f").stat()
    assert (about.st_atime_ns, about.st_mtime_ns) == (-5 * 10**9 + 123_456_789, 2**33 * 10**9 + 1)
    utimensat(folder / "f", (0, OMIT), (7, 8))
    about = (folder / "f").stat()
    assert (about.st_atime_ns, about.st_mtime_ns) == (-5 * 10**9 + 123_456_789, 7 * 10**9 + 8)
    before_ns = time.time_ns()
    utimensat(folder / "f", (0, NOW), (0, OMIT))
    about = (folder / "f").stat()
    assert before_ns - 10**9 < about.st_atime_ns <= time.time_ns()
    assert about.st_mtime_ns == 7 * 10**9 + 8
    ctime_ns = about.st_ctime_ns
    utimensat(folder / "f", (0, OMIT), (0, OMIT))
    assert (folder / "f").stat().st_ctime_ns == ctime_ns
    refused(errno.EINVAL, utimensat, folder / "f", (0, 10**9), (0, 0))


@pytest.mark.promise("times-are-exact")
def test_o_trunc_updates_the_times_of_an_empty_file(folder: Path) -> None:
    (folder / "f").touch()
    os.utime(folder / "f", (5, 5))
    os.close(os.open(folder / "f", os.O_WRONLY | os.O_TRUNC))
    assert (folder / "f").stat().st_mtime > 5


@pytest.mark.promise("times-are-exact")
def test_an_empty_write_changes_nothing(folder: Path) -> None:
    (folder / "f").write_bytes(b"abc")
    os.utime(folder / "f", (5, 5))
    with open(folder / "f", "r+b", buffering=0) as file:
        assert os.pwrite(file.fileno(), b"", 10) == 0
    about = (folder / "f").stat()
    assert (about.st_size, about.st_mtime) == (3, 5)


@pytest.mark.promise("locks-work-on-one-machine")
def test_locks_work_between_processes(folder: Path) -> None:
    (folder / "f").touch()
    attempt = ["flock", "--nonblock", folder / "f", "true"]
    with open(folder / "f", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert subprocess.run(attempt, check=False).returncode == 1
        fcntl.flock(file, fcntl.LOCK_UN)
        assert subprocess.run(attempt, check=False).returncode == 0


@pytest.mark.promise("special-files-work")
def test_special_files_keep_their_type(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make devices")
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(folder / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    os.mknod(folder / "socket", stat.S_IFSOCK | 0o600)
    (folder / "null").write_text("gone")
    assert (folder / "null").read_text() == ""
    about = (folder / "block").stat()
    assert (os.major(about.st_rdev), os.minor(about.st_rdev)) == (259, 70_000)
    assert stat.S_ISSOCK((folder / "socket").stat().st_mode)
