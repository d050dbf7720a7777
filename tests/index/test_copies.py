# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of the index that are taken while the writer goes on."""

import threading
from pathlib import Path

import pytest

from cas3fs.errors import IndexDatabaseError
from cas3fs.index import Index
from cas3fs.index.files import put_in_place, remove_database
from tests.index.conftest import add_file


def names_in(path: Path) -> list[bytes]:
    with Index.open(path, scratch=True) as index:
        return [row[1] for row in index.namespace.entries(1, 0, 10**6)]


def test_a_copy_holds_what_is_committed_in_one_file(index: Index, tmp_path: Path) -> None:
    add_file(index, b"committed")
    index.commit()
    add_file(index, b"uncommitted")
    folder = tmp_path / "copies"
    folder.mkdir()
    index.copy_to(folder / "copy")
    assert list(folder.iterdir()) == [folder / "copy"]
    header = (folder / "copy").read_bytes()[:20]
    assert (header[16:18], header[18:20]) == (b"\x10\x00", b"\x01\x01"), "pages of 4096 bytes, no write-ahead log"
    assert names_in(folder / "copy") == [b"committed"]
    assert index.in_group


def test_a_copy_replaces_what_was_there(index: Index, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(b"rubbish" * 10_000)
    Path(f"{copy}-wal").write_bytes(b"old log")
    index.copy_to(copy)
    assert names_in(copy) == []
    assert not Path(f"{copy}-wal").exists()


def test_a_pinned_state_does_not_change_while_the_writer_goes_on(index: Index, tmp_path: Path) -> None:
    add_file(index, b"before")
    index.commit()
    with index.pin() as pinned:
        add_file(index, b"after")
        index.commit()
        pinned.copy_to(tmp_path / "copy")
    assert names_in(tmp_path / "copy") == [b"before"]


def test_a_copy_taken_under_load_is_a_state_between_two_commits(index: Index, tmp_path: Path) -> None:
    lock, stop, made = threading.Lock(), threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with lock:
                for _ in range(10):
                    add_file(index, b"%d" % number)
                    number += 1
                index.commit()
            made.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        counts = []
        for number in range(5):
            made.clear()
            assert made.wait(10)
            index.copy_to(tmp_path / f"{number}")
            counts.append(len(names_in(tmp_path / f"{number}")))
    finally:
        stop.set()
        writer.join()
    assert [count % 10 for count in counts] == [0] * 5
    assert counts == sorted(counts)
    assert counts[0] > 0


def test_a_copy_can_be_changed_and_stays_one_file(index: Index, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    add_file(index, b"a")
    index.commit()
    index.copy_to(copy)
    with Index.open(copy, scratch=True) as scratch:
        with scratch.operation():
            add_file(scratch, b"b")
        scratch.commit()
        scratch.sync()
        assert not list(tmp_path.glob("copy-*"))
    assert names_in(copy) == [b"a", b"b"]
    assert [row[1] for row in index.namespace.entries(1, 0, 9)] == [b"a"]


def test_a_copy_that_cannot_be_written_leaves_nothing(index: Index, tmp_path: Path) -> None:
    with pytest.raises(IndexDatabaseError):
        index.copy_to(tmp_path / "no such folder" / "copy")
    with pytest.raises(IndexDatabaseError):
        index.copy_to(tmp_path / ("x" * 300))
    add_file(index, b"goes on")
    index.commit()
    assert all(path.name.startswith("index.sqlite") for path in tmp_path.iterdir())


def test_unchanged_pages_are_equal_in_successive_copies(index: Index, tmp_path: Path) -> None:
    for number in range(5000):
        add_file(index, b"%d" % number)
    index.commit()
    index.copy_to(tmp_path / "1")
    add_file(index, b"one more")
    index.commit()
    index.copy_to(tmp_path / "2")
    one, two = (tmp_path / "1").read_bytes(), (tmp_path / "2").read_bytes()
    changed = sum(one[at : at + 4096] != two[at : at + 4096] for at in range(0, len(two), 4096))
    assert len(two) > 100 * 4096
    assert changed <= 12


def test_a_database_put_in_place_ignores_the_log_of_the_former_one(index: Index, tmp_path: Path) -> None:
    add_file(index, b"new")
    index.commit()
    index.copy_to(tmp_path / "copy")
    add_file(index, b"of another line")
    index.commit()
    old = tmp_path / "old.sqlite"
    Index.open(old, create=True).close()
    Path(f"{old}-wal").write_bytes(Path(f"{index.path}-wal").read_bytes())
    put_in_place(tmp_path / "copy", old)
    assert names_in(old) == [b"new"]
    assert not (tmp_path / "copy").exists()
    remove_database(old)
    assert not list(tmp_path.glob("old*"))


def test_putting_a_missing_file_in_place_is_an_index_error(tmp_path: Path) -> None:
    with pytest.raises(IndexDatabaseError):
        put_in_place(tmp_path / "none", tmp_path / "index")
