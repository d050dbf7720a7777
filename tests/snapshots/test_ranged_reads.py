# SPDX-License-Identifier: GPL-3.0-or-later
"""Many ranges are read with few requests, and any failure is raised."""

import threading

import pytest

from cas3fs.errors import ObjectMissing, SnapshotDamaged
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.ranged_reads import WantedRange, read_ranges

COUNT = 9


def wanted_of(store: MemoryStore) -> list[WantedRange[int]]:
    """One range of each object."""
    for number in range(COUNT):
        store.put_if_absent(f"objects/{number}", b"%d" % number * 100)
    return [WantedRange(f"objects/{number}", 10, 5, number) for number in range(COUNT)]


@pytest.mark.parametrize("workers", [1, 2, COUNT])
def test_all_wanted_ranges_are_read(workers: int) -> None:
    store = MemoryStore()
    found: dict[int, bytes] = {}
    read_ranges(store, wanted_of(store), lambda one, data: found.update({one.purpose: bytes(data)}), workers)
    assert found == {number: b"%d" % number * 5 for number in range(COUNT)}


@pytest.mark.parametrize("workers", [1, 2, COUNT])
@pytest.mark.parametrize("number", [0, 4, COUNT - 1])
def test_a_missing_object_is_an_error_wherever_it_is_in_the_list(workers: int, number: int) -> None:
    store = MemoryStore()
    wanted = wanted_of(store)
    store.delete_many([f"objects/{number}"])
    with pytest.raises(ObjectMissing, match=f"objects/{number}"):
        read_ranges(store, wanted, lambda one, data: None, workers)


@pytest.mark.parametrize("workers", [1, 2, COUNT])
@pytest.mark.parametrize("number", [0, 4, COUNT - 1])
def test_a_failing_callback_ends_the_reads(workers: int, number: int) -> None:
    store = MemoryStore()

    def use(one: WantedRange[int], data: memoryview) -> None:
        if one.purpose == number:
            raise SnapshotDamaged("refused")

    with pytest.raises(SnapshotDamaged, match="refused"):
        read_ranges(store, wanted_of(store), use, workers)
    assert not [one for one in threading.enumerate() if one.name.startswith("spans")]
