# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of an index that is pinned is the committed state of that instant, or it is noticed that it is not."""

import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cas3fs.errors import IndexDatabaseError, IndexFull, PinLost
from cas3fs.index import Index
from cas3fs.index.checks import IndexChecker
from cas3fs.index.index_file import IndexFile, PinnedFile
from cas3fs.index.reader import IndexReader
from cas3fs.index.sqlite import CHECKPOINT_PAGES
from cas3fs.values import BlockHash, BlockLocation
from tests.index.conftest import add_file, make_pack

REWRITTEN = [(18, 20), (24, 28), (40, 44), (92, 100)]
"""Bytes of the first page that SQLite's backup writes anew: the kind of log, and counters of changes."""


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    with Index.open(path, create=True) as index:
        index.own_file()
        yield index


def file_of(index: Index) -> IndexFile:
    assert index.file is not None
    return index.file


def pin(index: Index) -> PinnedFile:
    with file_of(index).mutex:
        pinned = file_of(index).pin()
    assert pinned is not None
    return pinned


def image_of(pinned: PinnedFile) -> bytes:
    content = bytearray(pinned.size)
    for offset in range(0, pinned.size, 20_000):
        pinned.read_into(memoryview(content)[offset : offset + 20_000], offset)
    return bytes(content)


def comparable(image: bytes) -> bytes:
    """The image without what a backup rewrites."""
    kept = bytearray(image)
    for start, end in REWRITTEN:
        kept[start:end] = bytes(end - start)
    return bytes(kept)


def add_files(index: Index, count: int, name: str = "file") -> None:
    with index.operation():
        for number in range(count):
            add_file(index, f"{name}{number}".encode())
    index.commit()


def lock() -> threading.RLock:
    return threading.RLock()


@pytest.mark.promise("a-snapshot-is-the-index-of-one-instant")
def test_a_pinned_file_stays_what_it_was_while_others_commit(index: Index, tmp_path: Path) -> None:
    add_files(index, 3000)
    index.copy_to(tmp_path / "backup")
    with pin(index) as pinned:
        before = image_of(pinned)
        add_files(index, 3000, "later")
        assert pinned.ask(IndexReader.counts).files == 3000
        assert image_of(pinned) == before
        pinned.check()
    assert comparable(before) == comparable((tmp_path / "backup").read_bytes())
    with index.reader() as reader:
        assert reader.counts().files == 6000


def test_an_image_is_a_database_without_a_log(index: Index, tmp_path: Path) -> None:
    add_files(index, 100)
    with pin(index) as pinned:
        pinned.copy_to(tmp_path / "image")
    with IndexChecker(tmp_path / "image") as checker:
        assert checker.integrity(thorough=True) == []
    assert sorted(tmp_path.glob("image*")) == [tmp_path / "image"]
    with Index.open(tmp_path / "image") as image:
        assert image.namespace.child(1, b"file99") is not None


def test_an_image_is_copied_where_the_system_cannot_do_it(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    add_files(index, 3000)
    with pin(index) as pinned:
        pinned.copy_to(tmp_path / "by the system")
        monkeypatch.setattr(os, "copy_file_range", cannot)
        pinned.copy_to(tmp_path / "by hand")
        image = image_of(pinned)
    assert image == (tmp_path / "by the system").read_bytes() == (tmp_path / "by hand").read_bytes()


def test_nothing_moves_by_itself_and_a_long_log_is_used_again(index: Index) -> None:
    file = file_of(index)
    add_files(index, 1000)
    while file.state().frames < CHECKPOINT_PAGES:
        assert file.state().moved == 0
        add_files(index, 20, os.urandom(8).hex())
    file.move_in_time(lock())
    assert file.state().left == 0
    add_files(index, 1, "one more")
    assert file.state().frames < 20


@pytest.mark.promise("a-snapshot-is-the-index-of-one-instant")
def test_a_reader_of_an_older_state_keeps_the_file_from_being_pinned(index: Index) -> None:
    add_files(index, 10)
    with index.pin():
        add_files(index, 10, "later")
        with file_of(index).mutex:
            file_of(index).move_most(lock())
            assert file_of(index).pin() is None
        assert file_of(index).state().left
    with pin(index) as pinned:
        assert pinned.ask(IndexReader.counts).files == 20


def test_a_reader_of_the_newest_state_does_not(index: Index) -> None:
    add_files(index, 10)
    with index.pin(), pin(index) as pinned:
        assert pinned.ask(IndexReader.counts).files == 10


@pytest.mark.promise("a-snapshot-is-the-index-of-one-instant")
def test_a_log_that_grows_too_long_ends_the_pin(index: Index) -> None:
    file = file_of(index)
    file.max_log_pages = 50
    with pin(index) as pinned:
        image_of(pinned)
        file.move_in_time(lock())
        pinned.check()
        add_files(index, 5000)
        file.move_in_time(lock())
        for use in (pinned.check, lambda: image_of(pinned), lambda: pinned.ask(IndexReader.counts)):
            with pytest.raises(PinLost, match="pages were written to the log"):
                use()
        with file.mutex:
            file.move_most(lock())
        assert file.state().left == 0


FOREIGN = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
print(connection.execute(sys.argv[2]).fetchall())
connection.close()
"""


def in_another_process(path: Path, statement: str) -> str:
    command = [sys.executable, "-c", FOREIGN, path, statement]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def drop_locks(path: Path) -> None:
    """What POSIX makes of any close of the file in this process."""
    path.open("rb").close()


def test_another_process_cannot_move_pages_while_the_file_is_pinned(index: Index, path: Path) -> None:
    add_files(index, 10)
    with pin(index) as pinned:
        before = image_of(pinned)
        add_files(index, 500, "later")
        in_another_process(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        assert image_of(pinned) == before
        pinned.check()


@pytest.mark.promise("a-snapshot-is-the-index-of-one-instant")
def test_it_is_noticed_if_another_process_moves_pages_nevertheless(index: Index, path: Path) -> None:
    add_files(index, 10)
    with pin(index) as pinned:
        add_files(index, 500, "later")
        drop_locks(path)
        in_another_process(path, "PRAGMA wal_checkpoint(PASSIVE)")
        with pytest.raises(PinLost, match="another process"):
            pinned.check()


def test_it_is_noticed_if_the_log_was_used_from_its_start_twice(index: Index, path: Path) -> None:
    add_files(index, 10)
    with pin(index) as pinned:
        for number in range(2):
            add_files(index, 10, f"later {number}")
            drop_locks(path)
            index._database.unpin()
            in_another_process(path, "PRAGMA wal_checkpoint(RESTART)")
        add_files(index, 10, "last")
        with pytest.raises(PinLost, match="another process"):
            pinned.check()


@pytest.mark.promise("a-snapshot-is-the-index-of-one-instant")
@pytest.mark.parametrize("fault", ["log removed", "log replaced", "another log", "log cut", "database replaced"])
def test_files_that_another_process_has_changed_are_noticed_for_good(index: Index, path: Path, fault: str) -> None:
    add_files(index, 10)
    log = Path(f"{path}-wal")
    if fault == "log removed":
        log.unlink()
    elif fault == "log replaced":
        shutil.copy(log, path.with_name("other"))
        path.with_name("other").replace(log)
    elif fault == "another log":
        with open(log, "r+b") as file:
            file.seek(16)
            file.write(os.urandom(8))
    elif fault == "log cut":
        os.truncate(log, 0)
    else:
        shutil.copy(path, path.with_name("other"))
        path.with_name("other").replace(path)
    with file_of(index).mutex, pytest.raises(IndexDatabaseError, match="another process") as caught:
        file_of(index).pin()
    assert caught.value.is_final
    with pytest.raises(IndexDatabaseError) as caught:
        index.sync()
    assert caught.value.is_final


@pytest.mark.promise("a-snapshot-is-the-index-of-one-instant")
def test_a_commit_of_another_process_is_reported(index: Index, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_files(index, 10)
    pin(index).close()
    assert not caplog.records
    index._database.unpin()
    in_another_process(path, "UPDATE inodes SET uid = 1")
    add_files(index, 10, "later")
    pin(index).close()
    assert "another program has changed" in caplog.text


def test_a_log_that_has_grown_is_cut_when_it_is_used_again(index: Index, path: Path) -> None:
    log = Path(f"{path}-wal")
    os.truncate(log, 100 << 20)
    add_files(index, 10)
    pin(index).close()
    add_files(index, 10, "later")
    assert log.stat().st_size == 64 << 20


def test_a_commit_to_a_log_that_was_removed_is_not_durable(index: Index, path: Path) -> None:
    add_files(index, 10)
    index.sync()
    Path(f"{path}-wal").unlink()
    add_files(index, 10, "later")
    with pytest.raises(IndexDatabaseError, match="removed its log") as caught:
        index.sync()
    assert caught.value.is_final


def failing(code: int, kind: type[IndexDatabaseError]) -> Callable[[], tuple[bool, int, int]]:
    def move_log() -> tuple[bool, int, int]:
        cause = sqlite3.OperationalError("disk I/O error")
        cause.sqlite_errorcode = code
        raise kind("index.sqlite: it failed") from cause

    return move_log


@pytest.mark.promise("a-snapshot-is-the-index-of-one-instant")
def test_a_failed_sync_of_the_file_is_final(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    add_files(index, 10)
    monkeypatch.setattr(file_of(index)._mover, "move_log", failing(sqlite3.SQLITE_IOERR_FSYNC, IndexDatabaseError))
    with file_of(index).mutex, pytest.raises(IndexDatabaseError):
        file_of(index).move_most(lock())
    monkeypatch.undo()
    with pytest.raises(IndexDatabaseError) as caught:
        index.sync()
    assert caught.value.is_final


def test_a_full_disk_is_not_final(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    add_files(index, 10)
    monkeypatch.setattr(file_of(index)._mover, "move_log", failing(sqlite3.SQLITE_FULL, IndexFull))
    with file_of(index).mutex, pytest.raises(IndexFull):
        file_of(index).pin()
    monkeypatch.undo()
    index.sync()
    with pin(index) as pinned:
        assert pinned.ask(IndexReader.counts).files == 10


@pytest.mark.parametrize("commits", [0, 1])
def test_an_image_of_an_index_that_was_just_opened_is_not_lost(path: Path, commits: int) -> None:
    Index.open(path, create=True).close()
    with Index.open(path) as index:
        index.own_file()
        for number in range(commits):
            add_files(index, 1, f"first {number}")
        with pin(index) as pinned:
            add_files(index, 10)
            pinned.check()
            add_files(index, 10, "later")
            pinned.check()


class RandomIndex:
    """An index that grows and shrinks, is killed and opened again; its images are compared with backups.

    Attributes:
        compared: how many were.
    """

    def __init__(self, folder: Path, chosen: random.Random) -> None:
        self.folder = folder
        self.chosen = chosen
        self.life = 0
        self.compared = 0
        self.readers: list[IndexReader] = []
        self.packs = 0
        self.path = folder / "0" / "index.sqlite"
        self.path.parent.mkdir()
        self.index = self.open(create=True)

    def open(self, *, create: bool = False) -> Index:
        index = Index.open(self.path, create=create)
        index.own_file()
        return index

    def step(self) -> None:
        steps = [
            self.grow,
            self.change,
            self.shrink,
            self.undo,
            self.commit,
            self.read,
            self.move,
            self.compare,
            self.restart,
        ]
        self.chosen.choices(steps, weights=[25, 10, 8, 8, 20, 6, 8, 12, 2])[0]()

    def grow(self) -> None:
        with self.index.operation():
            self.packs += 1
            pack = make_pack(f"pack {self.life} {self.packs}", self.chosen.randrange(1, 60))
            self.index.blocks.add_pack(pack, 1)
            file = add_file(self.index, self.chosen.randbytes(self.chosen.randrange(1, 200)))
            ids = self.index.blocks.find([one.hash for one in pack.blocks])
            rows = [(4096 * place, 4096, ids[one.hash], 0) for place, one in enumerate(pack.blocks)]
            self.index.chunks.replace(file, 0, 4096 * len(rows), rows)
            self.index.namespace.set_xattr(file, b"user.a", self.chosen.randbytes(self.chosen.randrange(6000)))

    def shrink(self) -> None:
        last = self.index.namespace.last_numbers()[0]
        with self.index.operation():
            for number in range(2, last + 1, self.chosen.randrange(1, 5)):
                self.index.chunks.truncate(number, 0)

    def change(self) -> None:
        """Changes what is counted: sizes of files, and where blocks lie."""
        number = self.chosen.randrange(2, self.index.namespace.last_numbers()[0] + 1) if self.packs else 1
        place = BlockLocation(BlockHash(self.chosen.randbytes(32)), "other pack", 0, self.chosen.randrange(1, 90), 4096)
        with self.index.operation():
            self.index.chunks.stored(number, self.chosen.randrange(2**62), 1, 1, 1)
            self.index.blocks.enter(self.chosen.randrange(1, 1000), place, 1000, 1)

    def undo(self) -> None:
        if self.chosen.random() < 0.3:
            self.index.rollback()
            return
        with pytest.raises(ZeroDivisionError), self.index.operation():
            self.shrink()
            self.grow()
            raise ZeroDivisionError

    def commit(self) -> None:
        self.index.commit()
        if self.chosen.random() < 0.3:
            self.index.sync()

    def read(self) -> None:
        """A reader stays at the state of now for a while, or is let go."""
        if self.readers and self.chosen.random() < 0.7:
            self.readers.pop().close()
        else:
            self.readers.append(self.index.reader())
            self.readers[-1].pin()

    def move(self) -> None:
        with file_of(self.index).mutex:
            file_of(self.index).move_most(lock())

    def compare(self) -> None:
        self.index.commit()
        if self.chosen.random() < 0.8:
            while self.readers:
                self.readers.pop().close()
        file = file_of(self.index)
        with file.mutex:
            if self.chosen.random() < 0.5:
                file.move_most(lock())
            pinned = file.pin()
        if pinned is None:
            assert self.readers
            return
        backup = self.folder / "backup"
        with self.index.pin() as state:
            state.copy_to(backup)
        with pinned:
            for _ in range(self.chosen.randrange(4)):
                self.chosen.choice([self.grow, self.change, self.shrink, self.undo, self.commit, self.read])()
            self.chosen.choice([self.commit, lambda: None])()
            image = image_of(pinned)
            assert pinned.counts() == pinned.ask(IndexReader.counts)
            pinned.check()
        assert comparable(image) == comparable(backup.read_bytes())
        self.compared += 1

    def restart(self) -> None:
        """Closes it, or leaves it as a kill would, with half of a move in the file."""
        self.life += 1
        old, self.path = self.path, self.folder / str(self.life) / "index.sqlite"
        self.path.parent.mkdir()
        is_killed = self.chosen.random() < 0.7
        if not is_killed:
            self.close()
        for suffix in ("", "-wal") if is_killed else ("", "-hashes"):
            if Path(f"{old}{suffix}").exists():
                shutil.copy(f"{old}{suffix}", f"{self.path}{suffix}")
        if is_killed:
            self.close()
        shutil.rmtree(old.parent)
        self.index = self.open()

    def close(self) -> None:
        while self.readers:
            self.readers.pop().close()
        self.index.close()


@pytest.mark.promise("a-snapshot-is-the-index-of-one-instant")
@pytest.mark.lasts(120, long_s=3000)
def test_images_are_those_of_a_backup_of_the_same_instant(tmp_path: Path, long: bool) -> None:
    for seed in range(10 if long else 2):
        (tmp_path / str(seed)).mkdir()
        used = RandomIndex(tmp_path / str(seed), random.Random(seed))
        for _ in range(1000 if long else 250):
            used.step()
        used.close()
        assert used.compared > 5
        with IndexChecker(used.path) as checker:
            assert checker.integrity(thorough=True) == []
        with closing(sqlite3.connect(tmp_path / str(seed) / "backup")) as backup:
            assert backup.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_images_are_right_while_another_thread_commits(index: Index, tmp_path: Path, long: bool) -> None:
    """Each commit adds a file and a pack; an image has as many of one as of the other, and all up to some number."""
    guard, stop, failures = lock(), threading.Event(), list[BaseException]()

    def work() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                with guard:
                    with index.operation():
                        add_file(index, b"%d" % number)
                        index.blocks.add_pack(make_pack(f"{number}", 1), 1)
                    index.commit()
                file_of(index).move_in_time(guard)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        last = 0
        for number in range(200 if long else 20):
            with file_of(index).mutex:
                file_of(index).move_most(guard)
                with guard:
                    index.commit()
                    pinned = file_of(index).pin()
            assert pinned is not None
            with pinned:
                image = tmp_path / f"image{number}"
                pinned.copy_to(image)
            with IndexReader(image) as reader, IndexChecker(image) as checker:
                counts = reader.counts()
                assert checker.integrity(thorough=True) == []
            assert counts.files == counts.packs >= last
            last = counts.files
            image.unlink()
    finally:
        stop.set()
        thread.join()
    assert not failures
