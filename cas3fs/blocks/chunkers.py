# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunkers: where a file's content is cut into blocks.

A chunker looks at bytes from the start of a chunk on and returns the lengths of the chunks that are *certain*: those
that stay as they are whatever bytes follow. So a file that is fed in pieces is cut as if it had been fed at once, and
cutting again from any old chunk's start finds the old cuts as long as the bytes are the same.

``fastcdc`` cuts by content: an insertion moves the cuts with the bytes, and blocks far from it are found again.
``fixed`` cuts every `average_size` bytes: right for disk images and databases, whose pages are rewritten in place.

The FastCDC library is ``pyfastcdc``: against ``fastcdc`` 1.7 it releases the GIL while it searches (a sleeping thread
woke within 2.4 ms instead of 7.7), takes any buffer without a copy, is faster (2.3 to 4 against 2.2 GB/s), typed, and
cuts exactly as the Rust crate ``fastcdc`` (its 2020 variant) does, so that others can cut as we do. Its cuts must
never change for a volume: `tests/blocks` holds them by an example.

To add a chunker, write a class with the methods of `Chunker` and add it to `CHUNKERS`: ``mkfs --chunker`` and the
volume's entry find it there by its name.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from cas3fs.errors import UsageError
from cas3fs.values import Buffer

MIN_BLOCK_BYTES: Final = 4096
MAX_FASTCDC_BYTES: Final = 4 * 1024 * 1024
"""The library's limit of the average; the longest chunk is four times as long."""
MAX_FIXED_BYTES: Final = 16 * 1024 * 1024


class Chunker(Protocol):
    """Cuts content; safe to be used by several threads at once."""

    @property
    def name(self) -> str:
        """As in ``--chunker NAME``."""

    @property
    def min_size(self) -> int:
        """Bytes of the shortest chunk that is not a file's last."""

    @property
    def average_size(self) -> int:
        """Bytes of a chunk on average; fastcdc's real ones are longer by about `min_size`."""

    @property
    def max_size(self) -> int:
        """Bytes of the longest chunk."""

    @property
    def alignment(self) -> int:
        """Every chunk starts at a multiple of this in the file: 1, or the block size."""

    def cut(self, data: Buffer, final: bool) -> list[int]:
        """Lengths of the chunks from the start of `data` that are certain; their sum is `len(data)` when `final`.

        `data` starts where a chunk starts. With `final`, the file ends where `data` ends.
        """


class FastCdcChunker:
    """Cuts where a rolling hash of the content says so; the shortest chunk is a quarter, the longest four averages."""

    name = "fastcdc"
    alignment = 1

    def __init__(self, average_size: int) -> None:
        from pyfastcdc import FastCDC  # not for every command that shows the names of chunkers

        _check_size(average_size, MAX_FASTCDC_BYTES)
        self._library = FastCDC
        self.average_size = average_size
        self.min_size = average_size // 4
        self.max_size = average_size * 4

    def cut(self, data: Buffer, final: bool) -> list[int]:
        if not final and len(data) <= self.min_size:
            return []
        # The library forbids concurrent use of one object; making it takes a microsecond.
        library = self._library(self.average_size, min_size=self.min_size, max_size=self.max_size)
        lengths = [chunk.length for chunk in library.cut_buf(data)] if data else []
        if lengths and not final and lengths[-1] != self.max_size:
            # The last cut was made by the end of the data.
            lengths.pop()
        return lengths


class FixedChunker:
    """Cuts every `average_size` bytes."""

    name = "fixed"

    def __init__(self, size: int) -> None:
        _check_size(size, MAX_FIXED_BYTES)
        self.average_size = self.min_size = self.max_size = self.alignment = size

    def cut(self, data: Buffer, final: bool) -> list[int]:
        whole, rest = divmod(len(data), self.max_size)
        return [self.max_size] * whole + ([rest] if rest and final else [])


CHUNKERS: Final[Mapping[str, Callable[[int], Chunker]]] = MappingProxyType(
    {chunker.name: chunker for chunker in (FastCdcChunker, FixedChunker)}
)
"""Every chunker by its name; made with the average size of a chunk."""


def make_chunker(name: str, block_size: int) -> Chunker:
    """The chunker `name` with chunks of `block_size` bytes on average.

    Raises:
        UsageError: no such chunker, or `block_size` is no power of two within the chunker's limits.
    """
    if name not in CHUNKERS:
        raise UsageError(f"chunker {name!r} is none of {', '.join(CHUNKERS)}")
    return CHUNKERS[name](block_size)


def _check_size(size: int, largest: int) -> None:
    # A power of two: the library rounds its masks to one, and file offsets align with pages.
    if not MIN_BLOCK_BYTES <= size <= largest or size & (size - 1):
        raise UsageError(f"block size {size} is no power of two from {MIN_BLOCK_BYTES} to {largest}")
