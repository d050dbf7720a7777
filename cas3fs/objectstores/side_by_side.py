# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists a store in ranges of keys, several at once: each request waits for the store, and returns 1,000 keys.

The ranges cover all keys, whatever those are, so no object lies between two of them. The keys at which one range ends
and the next one begins, the *bounds*, only decide how evenly the work is divided.

Memory: what has been listed of `RANGES_AT_ONCE` ranges, of each at most `MAX_AHEAD` objects.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, pairwise, takewhile
from typing import Final, NamedTuple

from cas3fs.objectstores.base import ObjectInfo, ObjectStore

RANGE_OBJECTS: Final = 4000
"""How many objects a range should have: four requests."""
RANGES_AT_ONCE: Final = 8
MAX_AHEAD: Final = 10_000


class _Listed(NamedTuple):
    """The beginning of a range, and the key from where on it is still to be listed; None if that is all."""

    found: list[ObjectInfo]
    rest: str | None


def list_in_ranges(store: ObjectStore, bounds: Iterable[str]) -> Iterator[ObjectInfo]:
    """Every object of a store, ascending by key, as `ObjectStore.list` does.

    Args:
        store: where listing takes several requests at once, or one listing otherwise (`lists_side_by_side`).
        bounds: keys, ascending, of existing objects or not; about every `RANGE_OBJECTS`.

    Raises:
        StoreError: a request failed; what was listed before is incomplete.
    """
    if not store.lists_side_by_side:
        yield from store.list()
        return
    ahead: deque[tuple[Future[_Listed], str | None]] = deque()
    with ThreadPoolExecutor(RANGES_AT_ONCE, thread_name_prefix="cas3fs-list") as pool:
        try:
            for start, end in pairwise(chain(("",), bounds, (None,))):
                ahead.append((pool.submit(_begin, store, start or "", end), end))
                if len(ahead) == RANGES_AT_ONCE:
                    yield from _finish(store, *ahead.popleft())
            while ahead:
                yield from _finish(store, *ahead.popleft())
        finally:
            for future, _ in ahead:
                future.cancel()


def _begin(store: ObjectStore, start: str, end: str | None) -> _Listed:
    """Lists from behind `start` up to and with `end`, unless these are too many objects."""
    found: list[ObjectInfo] = []
    position: str | None = start
    while position is not None and not _is_beyond(position, end):
        if len(found) >= MAX_AHEAD:
            return _Listed(found, position)
        page = store.list_page("", position)
        found += (info for info in page.objects if not _is_beyond_key(info.key, end))
        position = page.next_start
    return _Listed(found, None)


def _finish(store: ObjectStore, begun: Future[_Listed], end: str | None) -> Iterator[ObjectInfo]:
    found, rest = begun.result()
    yield from found
    if rest is not None:
        yield from takewhile(lambda info: not _is_beyond_key(info.key, end), store.list("", rest))


def _is_beyond(position: str, end: str | None) -> bool:
    """Whether all that follows `position` is beyond `end`."""
    return end is not None and position >= end


def _is_beyond_key(key: str, end: str | None) -> bool:
    return end is not None and key > end
