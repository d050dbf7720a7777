# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel keeps the listing of one open directory at a time, until the attributes expire that came with it."""

from itertools import count

from cas3fs.fuse.kernel.protocol import OpenFlag
from cas3fs.fuse.kernel_frontend.listings import KernelListings

_READ_NOW, _USE_KEPT, _BESIDE = OpenFlag.CACHE_DIR, OpenFlag.CACHE_DIR | OpenFlag.KEEP_CACHE, OpenFlag.KEEP_CACHE
_HANDLES = count(1)


def opened_and_closed(listings: KernelListings, directory: int) -> int:
    handle = next(_HANDLES)
    flags = listings.opened(directory, handle)
    listings.released(handle)
    return flags


def test_a_listing_is_kept_until_the_attributes_expire() -> None:
    now_s = 1000.0
    listings = KernelListings(60.0, lambda: now_s)
    assert opened_and_closed(listings, 7) == _READ_NOW
    now_s += 59.0
    assert opened_and_closed(listings, 7) == _USE_KEPT
    assert opened_and_closed(listings, 8) == _READ_NOW
    now_s += 1.0
    assert opened_and_closed(listings, 7) == _READ_NOW
    assert opened_and_closed(listings, 8) == _USE_KEPT


def test_nothing_is_kept_without_a_timeout() -> None:
    listings = KernelListings(0.0)
    assert opened_and_closed(listings, 7) == opened_and_closed(listings, 7) == _READ_NOW


def test_one_open_directory_at_a_time_uses_what_is_kept() -> None:
    listings = KernelListings(60.0)
    assert listings.opened(7, 1) == _READ_NOW
    assert [listings.opened(7, handle) for handle in (2, 3)] == [_BESIDE, _BESIDE]
    assert listings.opened(8, 4) == _READ_NOW
    listings.released(2)
    assert listings.opened(7, 5) == _BESIDE
    listings.released(1)
    assert listings.opened(7, 6) == _USE_KEPT
    assert listings.opened(7, 7) == _BESIDE


def test_the_memory_for_it_is_bounded() -> None:
    listings = KernelListings(60.0)
    for number in range(25_000):
        assert opened_and_closed(listings, number) == _READ_NOW
    assert opened_and_closed(listings, 24_999) == _USE_KEPT
    assert opened_and_closed(listings, 0) == _READ_NOW
