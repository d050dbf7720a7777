# SPDX-License-Identifier: GPL-3.0-or-later
"""What is restored from staging after a crash, and what is not: staging and index are two databases, and a crash may
come between any two of their commits."""

import pytest

from cas3fs.errors import IndexDatabaseError
from cas3fs.filesystem import FileSystem
from tests.filesystem.machine import ROOT, Machine
from tests.filesystem.usage import content, index_of, make_file, names_in, rewrite, with_part_of


def mounted(machine: Machine) -> FileSystem:
    return machine.mount()


@pytest.mark.promise("staged-state-is-numbered")
def test_a_row_that_the_index_has_stored_already_does_not_go_backwards(machine: Machine) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f", b"old" * 100)
    fs.commit()
    with_row = machine.copy_of_the_disk()
    rewrite(fs, b"f", 0, b"NEW")
    fs.store_all()
    fs.commit()
    crashed = with_part_of(machine.copy_of_the_disk(), "staging.sqlite", with_row)
    after = mounted(crashed)
    assert content(after, b"f") == b"NEW" + b"old" * 99
    assert after.pending().files == 0
    crashed.close()


@pytest.mark.promise("staged-state-is-numbered")
def test_a_row_whose_file_is_gone_is_dropped(machine: Machine) -> None:
    fs = machine.mount()
    file = make_file(fs, 1, b"f", b"old" * 100)
    fs.commit()
    with_row = machine.copy_of_the_disk()
    fs.unlink(1, b"f")
    fs.forget([(file.number, 9)])
    fs.commit()
    crashed = with_part_of(machine.copy_of_the_disk(), "staging.sqlite", with_row)
    after = mounted(crashed)
    assert names_in(after, 1) == []
    assert after.pending().files == 0
    after.commit()
    assert list(after.staging.rows.records.rows()) == []
    crashed.close()


@pytest.mark.promise("staged-bytes-outlive-their-index-entry")
def test_staged_bytes_stay_until_the_index_that_stored_them_is_on_the_disk(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"small", b"s" * 100)
    make_file(fs, 1, b"large", b"l" * 1_000_000)
    fs.commit()
    before = machine.copy_of_the_disk()

    def fail() -> None:
        raise IndexDatabaseError("the disk failed, for the test")

    with monkeypatch.context() as patch:
        patch.setattr(index_of(fs), "sync", fail)
        with pytest.raises(IndexDatabaseError, match="for the test"):
            fs.store_all()  # which commits
        # the power goes, and with it all that the index was not synced for
        crashed = with_part_of(machine.copy_of_the_disk(), "index.sqlite", before)
    after = mounted(crashed)
    assert content(after, b"small") == b"s" * 100
    assert content(after, b"large") == b"l" * 1_000_000
    crashed.close()
    for _ in range(2):  # the first lets the bytes go, the second deletes their rows
        fs.commit()
    assert list(fs.staging.rows.records.rows()) == []


@pytest.mark.promise("staging-owns-size-and-times")
def test_bytes_that_were_cut_off_stay_cut_off_though_the_index_has_them(machine: Machine) -> None:
    fs = machine.mount()
    file = make_file(fs, 1, b"f", b"x" * 100_000)
    fs.store_all()
    fs.commit()
    fs.setattr(file.number, ROOT, size=10)
    fs.setattr(file.number, ROOT, size=50_000, mtime_ns=77)
    fs.commit()
    crashed = machine.copy_of_the_disk()
    after = mounted(crashed)
    assert content(after, b"f") == b"x" * 10 + bytes(49_990)
    assert after.getattr(file.number).mtime_ns == 77
    crashed.close()
