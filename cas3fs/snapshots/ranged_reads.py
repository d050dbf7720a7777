# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads many small ranges of objects with few parallel requests.

Ranges that lie close together in one object are merged, and one ranged GET reads them. Several threads read merged
ranges, one each at a time, so memory is limited to the number of threads times `LONGEST_READ_BYTES` (or the longest
range).
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Final, Generic, NamedTuple, TypeVar

from cas3fs.objectstores.base import ObjectStore

T = TypeVar("T")

LONGEST_READ_BYTES: Final = 4 * 1024 * 1024
LARGEST_GAP_BYTES: Final = 64 * 1024
"""A gap of up to this many bytes is read too: that takes about as long as another request."""


class WantedRange(NamedTuple, Generic[T]):
    """`length` bytes of object `key` from `offset` on, and the caller's note of what they are for."""

    key: str
    offset: int
    length: int
    purpose: T


class MergedRange(NamedTuple, Generic[T]):
    """A range of an object, with the wanted ranges in it."""

    key: str
    start: int
    end: int
    wanted: tuple[WantedRange[T], ...]


def merge_ranges(wanted: Iterable[WantedRange[T]]) -> Iterator[MergedRange[T]]:
    """Yield merged ranges that cover all wanted ones."""
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
    """Read all wanted ranges and pass them to `use`, which must be thread-safe, in any order.

    Raises:
        StoreError: the first error of a request. An error that `use` raises is passed on too. No thread runs on then.
    """

    def fetch(merged: MergedRange[T]) -> None:
        body = memoryview(store.get_range(merged.key, merged.start, merged.end - merged.start))
        for one in merged.wanted:
            start = one.offset - merged.start
            use(one, body[start : start + one.length])

    with ThreadPoolExecutor(workers, thread_name_prefix="ranges") as pool:
        in_flight: set[Future[None]] = set()
        for merged in merge_ranges(wanted):
            in_flight.add(pool.submit(fetch, merged))
            if len(in_flight) >= workers:
                done, in_flight = wait(in_flight, return_when=FIRST_COMPLETED)
                _raise_first(done)
        _raise_first(wait(in_flight).done)


def _fits(first: WantedRange[T], end: int, one: WantedRange[T]) -> bool:
    near = one.offset - end <= LARGEST_GAP_BYTES
    return first.key == one.key and near and one.offset + one.length - first.offset <= LONGEST_READ_BYTES


def _raise_first(done: Iterable[Future[None]]) -> None:
    for future in done:
        future.result()
