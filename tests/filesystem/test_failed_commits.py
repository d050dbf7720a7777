# SPDX-License-Identifier: GPL-3.0-or-later
"""Commits that fail: the next one does what they had to do, and no crash between finds half of it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cas3fs.errors import IndexDatabaseError, IndexRowRefused
from cas3fs.filesystem import FileSystem
from cas3fs.index.checks import IndexChecker
from cas3fs.testing.sqlite_faults import SqliteFault, sqlite_faults
from tests.filesystem.machine import ROOT, Machine
from tests.filesystem.usage import (
    after_a_crash,
    content,
    index_of,
    make_file,
    names_in,
    refused,
    rewrite,
    store_without_commit,
    until,
    with_part_of,
)


@contextmanager
def failing(holder: object, name: str) -> Iterator[None]:
    """That method of the holder fails meanwhile, as on a broken disk."""

    def fail() -> None:
        raise IndexDatabaseError("for the test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holder, name, fail)
        yield


def commit_in_vain(fs: FileSystem) -> None:
    with pytest.raises(IndexDatabaseError, match="for the test"):
        fs.commit()


@pytest.mark.parametrize("step", ["commit", "sync"])
def test_stored_layers_are_dropped_by_the_commit_after_a_failed_one(machine: Machine, step: str) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f", b"x" * 1000)
    fs.commit()
    store_without_commit(fs)
    with failing(index_of(fs), step):
        commit_in_vain(fs)
    fs.commit()
    assert fs.staging.size_bytes == 0
    fs.commit()  # deletes the rows of the layers that the one before has dropped
    assert list(fs.staging.rows.records.rows()) == []


@pytest.mark.promise("staged-bytes-outlive-their-index-entry")
@pytest.mark.parametrize("step", ["commit", "sync"])
def test_no_row_lies_over_what_an_index_holds_that_could_not_be_committed(machine: Machine, step: str) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f")
    fs.commit()
    before = machine.copy_of_the_disk()
    rewrite(fs, b"f", 0, b"1" * 1000)
    store_without_commit(fs)  # its bytes go, as no row names them
    with failing(index_of(fs), step):
        commit_in_vain(fs)
        rewrite(fs, b"f", 500, b"2")
        commit_in_vain(fs)
    # the power goes, and with it all that the index was not synced for
    crashed = with_part_of(machine.copy_of_the_disk(), "index.sqlite", before)
    assert content(crashed.mount(), b"f") == b""
    crashed.close()
    fs.commit()
    assert after_a_crash(machine, b"f") == b"1" * 500 + b"2" + b"1" * 499


@pytest.mark.promise("staged-bytes-outlive-their-index-entry")
def test_rows_that_could_not_be_committed_are_written_by_the_next_commit(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f", b"x" * 1000)
    with failing(fs.staging.rows.records._database, "commit"):
        commit_in_vain(fs)
    fs.commit()
    assert after_a_crash(machine, b"f") == b"x" * 1000


def test_rows_that_could_not_be_deleted_are_by_the_next_commit(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f", b"x" * 1000)
    fs.commit()
    fs.store_all()
    assert len(list(fs.staging.rows.records.rows())) == 1
    with failing(fs.staging.rows.records._database, "commit"):
        commit_in_vain(fs)
    fs.commit()
    assert list(fs.staging.rows.records.rows()) == []


@pytest.mark.promise("sqlite-never-spills")
def test_a_group_that_has_changed_many_pages_is_committed_early(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cas3fs.filesystem.writeback.commits._GROUP_PAGES", 50)
    fs = machine.mount()  # commits once an hour
    index = index_of(fs)
    make_file(fs, 1, b"f")
    number = fs.lookup(1, b"f").number
    fs.setxattr(number, b"user.small", b"x")
    for name in range(5):
        fs.setxattr(number, b"user.%d" % name, bytes(60_000))
    until(lambda: not index.in_group)


@pytest.mark.promise("values-are-checked-at-the-border")
def test_a_row_that_the_index_refuses_stays_as_it_was_and_the_others_are_committed(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    fs = machine.mount()
    numbers = {name: make_file(fs, 1, name).number for name in (b"a", b"odd", b"z")}
    fs.commit()
    handle = fs.open(numbers[b"odd"], os.O_RDWR, ROOT)
    for number in numbers.values():
        fs.setattr(number, ROOT, mode=0o600)
    fs.getattr(numbers[b"odd"]).rdev = 2**64
    fs.commit()
    fs.commit()
    assert [record.message for record in caplog.records if f"inode {numbers[b'odd']}" in record.message][1:] == []
    assert fs.statistics()["inodes.refused"] == 1
    with pytest.raises(IndexRowRefused):
        fs.fsync(handle)
    crashed = machine.copy_of_the_disk()
    again = crashed.mount()
    modes = [again.lookup(1, name).mode & 0o777 for name in numbers]
    crashed.close()
    assert modes == [0o600, 0o644, 0o600]
    fs.getattr(numbers[b"odd"]).rdev = 0
    fs.fsync(handle)
    assert fs.statistics()["inodes.refused"] == 0
    crashed = machine.copy_of_the_disk()
    assert crashed.mount().lookup(1, b"odd").mode & 0o777 == 0o600
    crashed.close()


@pytest.mark.promise("values-are-checked-at-the-border")
def test_an_inode_that_the_index_rejects_disappears_with_all_below_it_and_no_other(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite_faults() as faults:
        fs = machine.mount()
        make_file(fs, 1, b"before", b"content")
        with faults.on(SqliteFault.CONSTRAINT, at=1, times=1, text="INSERT INTO inodes"):  # the whole batch
            fs.commit()
        folder = fs.mkdir(1, b"odd", 0o755, ROOT).number
        handle = fs.opendir(folder)
        make_file(fs, folder, b"below", b"content")
        make_file(fs, 1, b"after", b"content")
        with faults.on(SqliteFault.CONSTRAINT, at=1, times=2, text="INSERT INTO inodes"):  # and its first row
            fs.commit()
    assert f"inode {folder} cannot be entered" in caplog.text
    assert names_in(fs, 1) == [b"before", b"after"]
    assert fs.getattr(1).nlink == 2
    with pytest.raises(IndexRowRefused):
        fs.fsyncdir(handle)
    fs.releasedir(handle)
    fs.forget([(folder, 1), (folder + 1, 1)])
    refused(errno.ENOENT, fs.getattr, folder)
    assert make_file(fs, 1, b"last").number > folder + 1, "no number is used again"
    fs.commit()
    fs.store_all()
    crashed = machine.copy_of_the_disk()
    again = crashed.mount()
    assert {name: content(again, name) for name in names_in(again, 1)} == {
        b"before": b"content",
        b"after": b"content",
        b"last": b"",
    }
    with IndexChecker(again.index_path) as checker:
        codes = ("name-without-inode", "name-in-no-folder", "wrong-link-count")
        assert [code for code in codes if checker.defects(code)] == []
    crashed.close()


@pytest.mark.promise("a-disk-that-lost-a-commit-ends-the-mount")
@pytest.mark.parametrize("broken", ["index", "records"])
def test_a_disk_that_lost_a_commit_makes_the_mount_read_only(
    machine: Machine, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    fs = machine.mount()
    make_file(fs, 1, b"f")
    fs.commit()
    rewrite(fs, b"f", 0, b"content")
    fs.rename(1, b"f", 1, b"renamed")
    database = index_of(fs)._database if broken == "index" else fs.staging.rows.records._database
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        database.begin()
        with pytest.raises(IndexDatabaseError, match="Input/output error"):
            fs.commit()
    assert not fs.read_only
    make_file(fs, 1, b"later", b"more")
    with pytest.raises(IndexDatabaseError, match="earlier"):
        fs.commit()
    assert "earlier write to the disk failed" in fs.read_only_reason
    refused(errno.EROFS, make_file, fs, 1, b"refused")
    crashed = machine.copy_of_the_disk()
    again = crashed.mount()
    assert {name: content(again, name) for name in names_in(again, 1)} == {b"renamed": b"content", b"later": b"more"}
    crashed.close()
    with pytest.raises(IndexDatabaseError, match="earlier"):
        fs.close()
    machine.running.clear()
