# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying out what is larger than any disk: holes take no time, and a size that the disk refuses is that file's."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.export import Exporter
from cas3fs.filesystem import ROOT, FileSystem
from cas3fs.filesystem.limits import SIZE_MAX
from tests.filesystem.machine import ROOT as OWNER
from tests.filesystem.machine import Machine
from tests.filesystem.usage import make_file


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "machine")
    yield made
    made.close()


@pytest.fixture
def fs(machine: Machine) -> FileSystem:
    return machine.mount()


def long_file(fs: FileSystem, name: bytes, size: int) -> None:
    """A file with a few bytes at its beginning and end, half of them stored."""
    number = make_file(fs, ROOT, name, b"begin").number
    fs.store_all()
    fs.setattr(number, OWNER, size=size)
    fs.store_all()
    make_file(fs, ROOT, name + b" short", b"whole")


@pytest.mark.promise("unusable-requests-are-refused-at-once")
def test_a_file_of_eight_exbibytes_is_copied_or_refused_at_once(fs: FileSystem, tmp_path: Path) -> None:
    long_file(fs, b"long", SIZE_MAX)
    (tmp_path / "out").mkdir()
    exporter = Exporter(fs)
    exporter.copy_entries(ROOT, tmp_path / "out")
    assert (tmp_path / "out" / "long short").read_bytes() == b"whole"
    if exporter.result.problems:
        assert os.strerror(errno.EFBIG) in exporter.result.problems[0]
        assert not (tmp_path / "out" / "long").exists()
    else:
        assert (tmp_path / "out" / "long").stat().st_size == SIZE_MAX


@pytest.mark.promise("unusable-requests-are-refused-at-once")
def test_what_lies_beyond_a_long_hole_is_found_wherever_it_lies(fs: FileSystem, tmp_path: Path) -> None:
    """In the store, in staging over a hole, and in staging over what is stored."""
    size = 1 << 40
    long_file(fs, b"long", size)
    handle = fs.open(fs.lookup(ROOT, b"long").number, os.O_WRONLY, OWNER)
    for offset in (size // 3, size // 2):
        fs.write(handle, offset, b"stored")
    fs.store_all()
    fs.write(handle, size // 2 + 2, b"AGAIN")
    fs.write(handle, size - 3, b"end")
    exporter = Exporter(fs)
    (tmp_path / "out").mkdir()
    with fs.index_transaction() as index:
        asked = index.chunks.spans
    questions = []
    index.chunks.spans = lambda *args: questions.append(args) or asked(*args)  # type: ignore[method-assign]
    exporter.copy_entries(ROOT, tmp_path / "out")
    assert len(questions) < 40
    assert exporter.result.problems == []
    with open(tmp_path / "out" / "long", "rb") as file:
        found = os.fstat(file.fileno())
        assert found.st_size == size
        assert found.st_blocks * 512 < 1 << 20
        for offset, expected in (
            (0, b"begin\0"),
            (size // 3, b"stored\0"),
            (size // 2, b"stAGAIN\0"),
            (size - 3, b"end"),
        ):
            file.seek(offset)
            assert file.read(len(expected)) == expected
