# SPDX-License-Identifier: GPL-3.0-or-later
"""A listing in ranges is the listing of the store, whatever the keys and bounds; its requests overlap."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.errors import StoreBusy
from cas3fs.metrics import Metrics
from cas3fs.objectstores import side_by_side
from cas3fs.objectstores.base import ListPage
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.objectstores.side_by_side import RANGES_AT_ONCE, list_in_ranges
from cas3fs.objectstores.wrappers import MeasuredStore

KEYS = st.lists(st.text("ab.", min_size=1, max_size=4).map(lambda text: f"p/a{text}"), max_size=40, unique=True)


class RemoteStore(MemoryStore):
    """A store whose pages are small, and which lists side by side."""

    lists_side_by_side = True

    def __init__(self, *keys: str) -> None:
        super().__init__(page_size=2)
        for key in keys:
            self.put_if_absent(key, b"")


@given(KEYS, KEYS, st.integers(0, 5))
def test_ranges_list_each_object_once_and_in_order(keys: list[str], bounds: list[str], ahead: int) -> None:
    store = RemoteStore(*keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side_by_side, "MAX_AHEAD", ahead)
        assert list(list_in_ranges(store, sorted(bounds))) == list(store.list())


def test_requests_of_several_ranges_are_under_way_at_once() -> None:
    class Meeting(RemoteStore):
        """Answers when as many requests have come as there are ranges at once."""

        barrier = threading.Barrier(RANGES_AT_ONCE, timeout=60)

        def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
            self.barrier.wait()
            return super().list_page(prefix, start_after)

    store = Meeting(*(f"{number}" for number in range(RANGES_AT_ONCE)))
    bounds = [f"{number}" for number in range(RANGES_AT_ONCE - 1)]
    wrapped = MeasuredStore(store, Metrics())
    assert [info.key for info in list_in_ranges(wrapped, bounds)] == [str(number) for number in range(RANGES_AT_ONCE)]


def test_a_store_that_gains_nothing_by_it_is_listed_in_one_go() -> None:
    store = MemoryStore()
    for key in ("a", "b", "c"):
        store.put_if_absent(key, b"")
    starts = []

    def listed(prefix: str, start: str) -> ListPage:
        starts.append(start)
        return MemoryStore.list_page(store, prefix, start)

    store.list_page = listed  # type: ignore[method-assign,assignment]
    assert [info.key for info in list_in_ranges(store, ["a", "b"])] == ["a", "b", "c"]
    assert starts == [""]


def test_a_request_that_fails_ends_the_listing() -> None:
    class Failing(RemoteStore):
        """Fails in the middle."""

        def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
            if start_after == "b":
                raise StoreBusy("busy")
            return super().list_page(prefix, start_after)

    listing = list_in_ranges(Failing("a", "b", "c"), ["a", "b"])
    with pytest.raises(StoreBusy):
        list(listing)
