# SPDX-License-Identifier: GPL-3.0-or-later
"""Only a program that reads from front to back is recognised as sequential."""

import itertools
import random

from cas3fs.filesystem.reading.readahead import FIRST_BYTES, LARGEST_BYTES, ReadAhead

PIECE = 128 << 10


def test_a_random_reader_causes_nothing_even_if_every_read_is_tried_twice() -> None:
    ahead, places = ReadAhead(), random.Random(1)
    for _ in range(1000):
        start = places.randrange(1 << 20) * 4096
        assert ahead.record_read(start, start + 4096) is None
        assert ahead.record_read(start, start + 4096) is None


def test_the_window_of_a_sequential_reader_grows_and_nothing_is_fetched_twice() -> None:
    ahead = ReadAhead()
    ranges = [window for place in range(4000) if (window := ahead.record_read(place * PIECE, (place + 1) * PIECE))]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    lengths = [end - begin for begin, end in ranges]
    assert lengths[0] <= 2 * FIRST_BYTES
    assert max(lengths) <= LARGEST_BYTES
    assert lengths[:5] == sorted(lengths[:5])
    assert max(lengths) >= LARGEST_BYTES // 2


def test_two_reads_in_flight_in_the_wrong_order_are_still_sequential() -> None:
    ahead = ReadAhead()
    found = 0
    for pair in range(0, 100, 2):
        for place in (pair + 1, pair):
            found += ahead.record_read(place * PIECE, (place + 1) * PIECE) is not None
    assert found >= 3


def test_a_reader_that_jumps_starts_over_with_the_smallest_window() -> None:
    ahead = ReadAhead()
    for place in range(1000):
        ahead.record_read(place * PIECE, (place + 1) * PIECE)
    far = 1 << 40
    assert ahead.record_read(far, far + PIECE) is None
    window = ahead.record_read(far + PIECE, far + 2 * PIECE)
    assert window is not None
    assert window[1] - window[0] <= 2 * FIRST_BYTES
