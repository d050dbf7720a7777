# SPDX-License-Identifier: GPL-3.0-or-later
"""The values that subpackages pass to each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.values import LARGEST_EPOCH, LARGEST_SEQUENCE, SnapshotNumber

NUMBERS = st.builds(SnapshotNumber, st.integers(0, LARGEST_EPOCH), st.integers(0, 9_999_999_999))


@given(NUMBERS)
def test_a_snapshot_number_is_read_as_it_was_written(number: SnapshotNumber) -> None:
    assert SnapshotNumber.parse(str(number)) == number


@given(NUMBERS, NUMBERS)
def test_snapshot_numbers_sort_as_their_texts_do(one: SnapshotNumber, other: SnapshotNumber) -> None:
    assert (one < other) == (str(one) < str(other))


def test_a_snapshot_number_has_digits_for_a_lifetime() -> None:
    assert str(SnapshotNumber(7, 123)) == "00000007-0000000123"


def test_a_number_that_does_not_fit_in_the_index_is_refused() -> None:
    assert SnapshotNumber.parse(f"{LARGEST_EPOCH}-{LARGEST_SEQUENCE}") == (LARGEST_EPOCH, LARGEST_SEQUENCE)
    for text in (f"{LARGEST_EPOCH + 1}-1", f"1-{LARGEST_SEQUENCE + 1}", "9" * 190 + "-1"):
        with pytest.raises(ValueError, match="too large"):
            SnapshotNumber.parse(text)


@pytest.mark.parametrize("text", ["", "7", "7-", "-123", "7-x", "x-7", "7-1-2", "\u0667-\u0667", "+7-1"])
def test_an_invalid_snapshot_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="snapshot number"):
        SnapshotNumber.parse(text)
