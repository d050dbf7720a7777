# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages of a directory, as the kernel asks for them: of any size, from any offset that it was given."""

import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas3fs.filesystem import ROOT, FileSystem
from cas3fs.fuse.handlers import RequestHandlers
from cas3fs.fuse.kernel.replies import Encoder, ReplyFormat
from cas3fs.fuse.limiter import BlockingLimiter
from tests.filesystem.machine import ROOT as CALLER
from tests.filesystem.machine import Machine

ENTRY = struct.Struct("=QQII")
ENTRY_OUT_BYTES = 128
NAMES = [b"%d-%s" % (number, b"n" * (number * 7 % 200)) for number in range(300)]
SIZES = st.sampled_from([4096, 4096 * 3, 32 * 1024, 128 * 1024])

Found = list[tuple[bytes, int, int]]
"""Name, inode, and the offset of the next entry."""


class Lister:
    """An open directory of `NAMES`, behind the handlers."""

    def __init__(self, fs: FileSystem) -> None:
        self.fs = fs
        self.handlers = RequestHandlers(fs, limiter=BlockingLimiter(2, lambda: 0.0))
        self.directory = fs.mkdir(ROOT, b"d", 0o755, CALLER).number
        self.numbers = {
            name: fs.mknod(self.directory, name, stat.S_IFREG | 0o644, 0, CALLER).number for name in NAMES
        } | {b".": self.directory, b"..": ROOT}
        self.handle = self.handlers.opendir(self.directory)

    def page(self, offset: int, size: int, *, with_inodes: bool) -> Found:
        """What one request is answered; checks the numbers and types in it."""
        page = Encoder(ReplyFormat()).page(size, with_attributes=with_inodes)
        self.handlers.fill_page(self.handle, offset, page)
        reply = page.reply(1)
        content = (reply if isinstance(reply, bytes) else b"".join(reply))[16:]
        assert len(content) <= size
        return list(self._parsed(content, with_inodes=with_inodes))

    def _parsed(self, content: bytes, *, with_inodes: bool) -> Iterator[tuple[bytes, int, int]]:
        at = 0
        while at < len(content):
            given_inode = 0
            if with_inodes:
                (given_inode,) = struct.unpack_from("=Q", content, at)
                at += ENTRY_OUT_BYTES
            number, following, length, kind = ENTRY.unpack_from(content, at)
            name = content[at + ENTRY.size : at + ENTRY.size + length]
            at += ENTRY.size + (length + 7) // 8 * 8
            assert number == self.numbers[name]
            assert kind == (4 if name in {b".", b".."} else 8)
            assert given_inode == (number if with_inodes and kind == 8 else 0)
            yield name, number, following


@pytest.fixture(scope="module")
def lister(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lister]:
    machine = Machine(Path(tmp_path_factory.mktemp("listings")) / "machine")
    yield Lister(machine.mount())
    machine.close()


def whole(lister: Lister) -> Found:
    found: Found = []
    while page := lister.page(found[-1][2] if found else 0, 4096, with_inodes=False):
        found += page
    return found


@pytest.mark.promise("a-listing-shows-each-name-once")
@settings(max_examples=settings.default.max_examples // 2)
@given(
    requests=st.lists(
        st.tuples(st.one_of(st.just("go on"), st.integers(0, len(NAMES) + 2)), SIZES, st.booleans()), max_size=12
    )
)
def test_every_page_is_the_part_of_the_listing_that_was_asked_for(
    lister: Lister, requests: list[tuple[object, int, bool]]
) -> None:
    entries = whole(lister)
    assert [name for name, _, _ in entries] == [b".", b"..", *NAMES]
    offsets = [0, *(following for _, _, following in entries)]
    place = 0
    for where, size, with_inodes in requests:
        if isinstance(where, int):
            place = where
        before = dict(lister.fs._state.inodes.lookups)
        found = lister.page(offsets[place], size, with_inodes=with_inodes)
        assert found == entries[place : place + len(found)]
        assert bool(found) == (place < len(entries))
        given_inodes = {number for name, number, _ in found if with_inodes and name not in {b".", b".."}}
        after = lister.fs._state.inodes.lookups
        assert {number for number in after if after[number] != before.get(number, 0)} == given_inodes
        place += len(found)


def test_a_reader_that_jumps_gets_little_and_more_as_it_goes_on(lister: Lister) -> None:
    offsets = [following for _, _, following in whole(lister)]
    assert len(lister.page(0, 1 << 20, with_inodes=False)) == len(NAMES) + 2
    first = lister.page(offsets[50], 1 << 20, with_inodes=False)
    second = lister.page(first[-1][2], 1 << 20, with_inodes=False)
    assert len(first) < 20
    assert len(second) == 2 * len(first)
    assert len(lister.page(offsets[10], 1 << 20, with_inodes=True)) == len(first)
