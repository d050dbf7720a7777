# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that cannot be stored is left out, reported, and tried again; it blocks the storing of no other."""

import errno
import os
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from cas3fs.blockstore import writer as block_writer
from cas3fs.errors import AccessDenied, BlockMissing, StoreError, StoreRefused
from cas3fs.filesystem import FileSystem, FileSystemSettings
from cas3fs.objectstores.base import Body
from tests.filesystem.gated import GatedStore
from tests.filesystem.machine import ROOT, Machine
from tests.filesystem.usage import (
    content,
    make_file,
    on_another_machine,
    refused,
    replace_by_rename,
    rewrite,
    shown,
    take_checkpoint,
)

LARGE = random.Random(1).randbytes(600_000)
REFUSED = random.Random(2).randbytes(2000)
UNCODED = random.Random(3).randbytes(2000)
QUIET = FileSystemSettings(settle_s=3600, batch_wait_s=3600, commit_interval_s=3600)


class Refusing(GatedStore):
    """Refuses what contains certain bytes, or everything."""

    all = False

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        self.puts += 1
        if self.all:
            raise AccessDenied("403 for the test")
        assert isinstance(body, bytes | bytearray | memoryview)
        if REFUSED[:100] in bytes(body):
            raise StoreRefused("413 for the test")
        self.inner.put_if_absent(key, body, metadata)


def mount(machine: Machine) -> tuple[FileSystem, Refusing]:
    made: list[Refusing] = []

    def wrap(store: object) -> Refusing:
        made.append(Refusing(store))  # type: ignore[arg-type]
        return made[0]

    return machine.mount(QUIET, wrap=wrap), made[0]


def staged_of(machine: Machine, fs: FileSystem, name: bytes) -> Path:
    """The file in which the staged bytes of a large file lie."""
    number = fs.lookup(1, name).number
    (path,) = (machine.folder / "staging").glob(f"{number:x}-*")
    return path


def cut_short(machine: Machine, fs: FileSystem, name: bytes) -> None:
    """Makes most of the staged bytes of a file unreadable."""
    os.truncate(staged_of(machine, fs, name), 4096)


@pytest.mark.promise("a-file-that-cannot-be-stored-blocks-no-other")
def test_unreadable_bytes_block_the_storing_of_no_other_file(machine: Machine) -> None:
    fs, _ = mount(machine)
    make_file(fs, 1, b"victim", LARGE)
    make_file(fs, 1, b"other", b"important")
    fs.commit()
    cut_short(machine, fs, b"victim")
    fs.store_all(skip_unstorable=True)
    (left,) = fs.unstorable_files()
    assert (left.path, left.size_bytes) == ("/victim", len(LARGE)) and left.reason
    with pytest.raises((OSError, EOFError)):
        fs.store_all()
    make_file(fs, 1, b"later", b"important, too")
    fs.store_all(skip_unstorable=True)
    assert fs.pending().files == 1


def test_only_a_program_that_waits_for_an_unstorable_file_gets_its_error(machine: Machine) -> None:
    fs, _ = mount(machine)
    victim = make_file(fs, 1, b"victim", LARGE)
    other = make_file(fs, 1, b"other", b"important")
    fs.commit()
    cut_short(machine, fs, b"victim")
    fs.store_all(skip_unstorable=True)
    fs.check_stored(fs.open(other.number, os.O_RDONLY, ROOT))
    handle = fs.open(victim.number, os.O_RDWR, ROOT)
    refused(errno.EIO, fs.check_stored, handle)
    fs.setattr(victim.number, ROOT, size=0)
    fs.write(handle, 0, b"written anew")
    fs.release(handle)
    fs.store_all()
    fs.check_stored(fs.open(victim.number, os.O_RDONLY, ROOT))
    assert fs.unstorable_files() == []


@pytest.mark.promise("a-file-that-cannot-be-stored-blocks-no-other")
def test_a_refused_block_blocks_no_other_file_of_its_pack(machine: Machine, tmp_path: Path) -> None:
    fs, _ = mount(machine)
    for number in range(20):
        make_file(fs, 1, b"%d" % number, b"content %d" % number)
    make_file(fs, 1, b"victim", REFUSED)
    for number in range(20, 40):
        make_file(fs, 1, b"%d" % number, b"content %d" % number)
    fs.store_all(skip_unstorable=True)
    assert [one.path for one in fs.unstorable_files()] == ["/victim"]
    assert "413" in fs.unstorable_files()[0].reason
    take_checkpoint(fs, tmp_path / "copy")
    assert shown(machine, tmp_path / "copy", b"39") == b"content 39"
    rewrite(fs, b"victim", 0, b"x" * 200)
    fs.store_all()
    assert fs.unstorable_files() == []


@pytest.mark.promise("a-file-that-cannot-be-stored-blocks-no-other")
def test_a_block_that_cannot_be_encoded_concerns_its_file_only(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, _ = mount(machine)
    encode = block_writer.encode_parts

    def failing(plain: memoryview, *rest: object) -> object:
        if UNCODED[:16] in bytes(plain):
            raise MemoryError("for the test")
        return encode(plain, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(block_writer, "encode_parts", failing)
    make_file(fs, 1, b"small", UNCODED)
    make_file(fs, 1, b"large", UNCODED + LARGE)
    make_file(fs, 1, b"other", b"important")
    fs.store_all(skip_unstorable=True)
    assert sorted(one.path for one in fs.unstorable_files()) == ["/large", "/small"]
    monkeypatch.undo()
    fs.store_all()
    assert fs.unstorable_files() == []


@pytest.mark.promise("a-file-that-cannot-be-stored-blocks-no-other")
def test_a_store_that_refuses_everything_is_tried_with_a_few_isolated_files_only(machine: Machine) -> None:
    fs, store = mount(machine)
    for number in range(300):
        make_file(fs, 1, b"%d" % number, b"content %d" % number)
    store.all = True
    fs.store_all(skip_unstorable=True)
    assert len(fs.unstorable_files()) == 300
    assert store.puts < 20
    with pytest.raises(StoreError):
        fs.store_all()
    store.all = False
    fs.store_all()
    assert fs.unstorable_files() == []


@pytest.mark.promise("a-file-that-cannot-be-stored-blocks-no-other")
def test_many_unstorable_files_block_no_storable_one(machine: Machine) -> None:
    fs, _ = mount(machine)
    for number in range(12):
        make_file(fs, 1, b"bad %d" % number, REFUSED + b"%d" % number)
    make_file(fs, 1, b"good", b"important")
    for _ in range(100):
        fs.store_all(skip_unstorable=True)
        if len(fs.unstorable_files()) == 12:
            break
    assert [one.path for one in fs.unstorable_files() if "bad" not in one.path] == []


@pytest.mark.promise("a-file-that-cannot-be-stored-blocks-no-other")
def test_a_snapshot_shows_a_file_that_cannot_be_stored_as_it_was_stored_last(machine: Machine, tmp_path: Path) -> None:
    fs, _ = mount(machine)
    make_file(fs, 1, b"victim", b"old")
    fs.store_all()
    rewrite(fs, b"victim", 0, LARGE)
    fs.commit()
    cut_short(machine, fs, b"victim")
    take_checkpoint(fs, tmp_path / "copy")
    assert shown(machine, tmp_path / "copy", b"victim") == b"old"


@pytest.mark.promise("a-file-that-cannot-be-stored-blocks-no-other")
def test_a_snapshot_shows_no_file_replaced_by_an_empty_one_that_cannot_be_stored(
    machine: Machine, tmp_path: Path
) -> None:
    fs, _ = mount(machine)
    make_file(fs, 1, b"victim", b"old")
    make_file(fs, 1, b"other", b"important")
    fs.store_all()
    replace_by_rename(fs, b"victim", LARGE)
    fs.commit()
    cut_short(machine, fs, b"victim")
    take_checkpoint(fs, tmp_path / "copy")
    assert shown(machine, tmp_path / "copy", b"other") == b"important"
    other = on_another_machine(machine, tmp_path / "copy")
    there = other.mount()
    assert there.lookup(1, b"victim").size == len(LARGE)
    with pytest.raises(BlockMissing):
        content(there, b"victim")
    other.close()
