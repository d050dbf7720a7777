# SPDX-License-Identifier: GPL-3.0-or-later
"""A row that SQLite refuses concerns its file only: the others of its batch are saved and stored."""

import os

import pytest

from cas3fs.errors import IndexRowRefused
from cas3fs.filesystem import FileSystem
from cas3fs.testing.sqlite_faults import SqliteFault, sqlite_faults
from tests.filesystem.machine import ROOT, Machine
from tests.filesystem.usage import content, index_of, make_file, remove, rewrite, store_without_commit

NAMES = (b"a", b"odd", b"z")


def odd_of(fs: FileSystem) -> int:
    return fs.lookup(1, b"odd").number


def make_odd(fs: FileSystem) -> None:
    """The record of the file has a number that no row holds."""
    fs.staging.files[odd_of(fs)].layers[-1].mtime_ns = 2**70


def make_even(fs: FileSystem) -> None:
    fs.staging.files[odd_of(fs)].layers[-1].mtime_ns = 7


@pytest.mark.promise("a-refused-row-costs-its-file")
def test_a_refused_row_fails_only_the_fsync_of_its_own_file(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    fs = machine.mount()
    for name in NAMES:
        make_file(fs, 1, name, name * 100)
    make_odd(fs)
    odd, other = (fs.open(fs.lookup(1, name).number, os.O_RDWR, ROOT) for name in (b"odd", b"z"))
    fs.fsync(other)
    for _ in range(2):
        with pytest.raises(IndexRowRefused):
            fs.fsync(odd)
    assert len([record for record in caplog.records if f"inode {odd_of(fs)}" in record.message]) == 1
    assert fs.statistics()["staging.refused"] == 1
    assert f"inode {odd_of(fs)}" in fs.metrics.last_errors()["staging"].error
    crashed = machine.copy_of_the_disk()
    after = crashed.mount()
    assert [content(after, name) for name in NAMES] == [b"a" * 100, b"", b"z" * 100]
    crashed.close()
    make_even(fs)
    fs.fsync(odd)
    assert fs.statistics()["staging.refused"] == 0
    crashed = machine.copy_of_the_disk()
    assert content(crashed.mount(), b"odd") == b"odd" * 100
    crashed.close()


@pytest.mark.promise("a-refused-row-costs-its-file")
def test_no_row_is_saved_over_a_refused_one(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"odd", b"1" * 100)
    fs.commit()
    rewrite(fs, b"odd", 0, b"2")
    make_odd(fs)
    inode = fs.lookup(1, b"odd")
    with fs.staging.lock:
        fs.staging.freeze(inode)
    rewrite(fs, b"odd", 50, b"3")
    fs.commit()
    crashed = machine.copy_of_the_disk()
    assert content(crashed.mount(), b"odd") == b"1" * 100
    crashed.close()
    fs.staging.files[odd_of(fs)].layers[-2].mtime_ns = 7
    fs.staging.files[odd_of(fs)].layers[-1].mtime_ns = 7
    fs.commit()
    crashed = machine.copy_of_the_disk()
    assert content(crashed.mount(), b"odd") == b"2" + b"1" * 49 + b"3" + b"1" * 49
    crashed.close()


@pytest.mark.promise("a-refused-row-costs-its-file")
def test_many_refused_records_end_no_commit(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cas3fs.filesystem.writeback.commits._SLICE_BYTES", 1000)
    fs = machine.mount()
    for number in range(20):
        make_file(fs, 1, b"%d" % number, b"x" * 600)
    for inode in fs.staging.files.values():
        inode.layers[-1].mtime_ns = 2**70
    make_file(fs, 1, b"whole", b"w" * 600)
    fs.commit()
    crashed = machine.copy_of_the_disk()
    assert content(crashed.mount(), b"whole") == b"w" * 600
    crashed.close()
    assert fs.statistics()["staging.refused"] == 20
    for number in range(20):
        remove(fs, b"%d" % number)
    assert fs.statistics()["staging.refused"] == 0


@pytest.mark.promise("a-refused-row-costs-its-file")
@pytest.mark.parametrize("what", ["a chunk", "what was stored"])
def test_a_file_whose_chunks_are_refused_is_not_stored_and_the_others_of_its_batch_are(
    machine: Machine, what: str
) -> None:
    with sqlite_faults() as faults:
        fs = machine.mount()
        for name in NAMES:
            make_file(fs, 1, name, name * 1000)
        fs.commit()
        odd = odd_of(fs)
        entered = index_of(fs).chunks.all_stored

        def refusing(rows, new=()):  # type: ignore[no-untyped-def]
            rows = list(rows)
            if any(row[0] == odd for row in rows):
                text = "INSERT INTO chunks" if what == "a chunk" else "UPDATE inodes"
                with faults.on(SqliteFault.CONSTRAINT, text=text):
                    entered(rows, new)
            else:
                entered(rows, new)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index_of(fs).chunks, "all_stored", refusing)
            fs.storer.store_all(skip_unstorable=True)
            assert [one.path for one in fs.unstorable_files()] == ["/odd"]
            assert "constraint" in fs.unstorable_files()[0].reason
            with pytest.raises(IndexRowRefused):
                fs.store_all()
        store_without_commit(fs)
        assert fs.unstorable_files() == []
        fs.commit()
    assert [content(fs, name) for name in NAMES] == [name * 1000 for name in NAMES]
