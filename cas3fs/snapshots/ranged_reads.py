# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading many small ranges of objects with few requests, side by side.

Ranges of one object that lie close together are joined to a *span*, which one ranged GET brings. Spans are read by
several threads; no more of them are under way than threads, so memory stays within threads times
`LONGEST_READ_BYTES`, or the longest range.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final, Generic, NamedTuple, TypeVar

from cas3fs.objectstores.base import ObjectStore

T = TypeVar("T")

LONGEST_READ_BYTES: Final = 4 * 1024 * 1024
LARGEST_GAP_BYTES: Final = 64 * 1024
"""Bytes that nobody wants are read rather than asking twice: as many as arrive in about the time of a request."""


class WantedRange(NamedTuple, Generic[T]):
    """`length` bytes from `offset` of object `key` on, and what they are for."""

    key: str
    offset: int
    length: int
    purpose: T


class MergedRange(NamedTuple, Generic[T]):
    """A range of an object with everything wanted in it."""

    key: str
    start: int
    end: int
    wanted: tuple[WantedRange[T], ...]


def merge_ranges(wanted: Iterable[WantedRange[T]]) -> Iterator[MergedRange[T]]:
    """Spans that cover all that is wanted."""
    group: list[WantedRange[T]] = []
    end = 0
    for one in sorted(wanted, key=lambda each: (each.key, each.offset)):
        if group and not _fits(group[0], end, one):
            yield MergedRange(group[0].key, group[0].offset, end, tuple(group))
            group, end = [], 0
        group.append(one)
        end = max(end, one.offset + one.length)
    if group:
        yield MergedRange(group[0].key, group[0].offset, end, tuple(group))


def read_ranges(
    store: ObjectStore,
    wanted: Iterable[WantedRange[T]],
    use: Callable[[WantedRange[T], memoryview], None],
    workers: int,
) -> None:
    """Read all that is wanted and hand it to `use`, which must be thread-safe, in no particular order.

    Raises:
        StoreError: the first that a request met; what `use` raises passes through too. Nothing runs on after that.
    """

    def fetch(span: MergedRange[T]) -> None:
        body = memoryview(store.get_range(span.key, span.start, span.end - span.start))
        for one in span.wanted:
            start = one.offset - span.start
            use(one, body[start : start + one.length])

    spans = merge_ranges(wanted)
    with ThreadPoolExecutor(workers, thread_name_prefix="spans") as pool:
        under_way: set[Future[None]] = set()
        for span in spans:
            under_way.add(pool.submit(fetch, span))
            if len(under_way) >= workers:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                _raise_first(done)
        _raise_first(wait(under_way).done)


def _fits(first: WantedRange[T], end: int, one: WantedRange[T]) -> bool:
    near = one.offset - end <= LARGEST_GAP_BYTES
    return first.key == one.key and near and one.offset + one.length - first.offset <= LONGEST_READ_BYTES


def _raise_first(done: Iterable[Future[None]]) -> None:
    for future in done:
        future.result()
