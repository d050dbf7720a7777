# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel reads a directory anew once the attributes have expired that came with its last listing."""

from cas3fs.fuse.kernel_frontend.listings import KernelListings


def test_a_listing_is_kept_until_the_attributes_expire() -> None:
    now_s = 1000.0
    listings = KernelListings(60.0, lambda: now_s)
    assert not listings.is_fresh(7)
    now_s += 59.0
    assert listings.is_fresh(7)
    assert not listings.is_fresh(8)
    now_s += 1.0
    assert not listings.is_fresh(7)
    assert listings.is_fresh(8)


def test_nothing_is_kept_without_a_timeout() -> None:
    listings = KernelListings(0.0)
    assert not listings.is_fresh(7)
    assert not listings.is_fresh(7)


def test_the_memory_for_it_is_bounded() -> None:
    listings = KernelListings(60.0)
    for number in range(25_000):
        assert not listings.is_fresh(number)
    assert listings.is_fresh(24_999)
    assert not listings.is_fresh(0)
