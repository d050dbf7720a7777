# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes, durations and times, from text and back."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.errors import UsageError
from cas3fs.units import format_duration, format_size, format_time, parse_duration, parse_size, parse_time


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512K", 512 << 10),
        ("1MiB", 1 << 20),
        ("1m", 1 << 20),
        ("1.5GiB", 3 << 29),
        ("5GB", 5 * 10**9),
        ("2 TiB", 2 << 40),
        ("7b", 7),
    ],
)
def test_a_size_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1Q", "1 2", "MiB", "1e6", "٣"])
def test_an_invalid_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="10GiB"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("30s", 30), ("5m", 300), ("1h", 3600), ("250ms", 0.25)])
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 minutes", "-1s"])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="duration"):
        parse_duration(text)


@given(st.integers(0, 1 << 62))
def test_a_size_for_people_is_short_and_says_its_unit(size: int) -> None:
    assert format_size(size).split(" ")[1] in {"B", "KiB", "MiB", "GiB", "TiB"}


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (90, "90s"), (300, "5m"), (3600, "1h"), (172800, "2d")])
def test_a_duration_for_people_has_the_largest_unit_that_divides_it(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == seconds


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's time zone is an hour ahead of UTC in winter, and two in summer."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2026-11-28 10:00", 9),
        ("2026-11-28T10:00:00", 9),
        ("2026-07-28 10:00", 8),
        ("2026-11-28 10:00+05:00", 5),
        ("2026-11-28T10:00Z", 10),
    ],
)
def test_a_time_is_local_unless_it_says_an_offset(text: str, hour: int) -> None:
    assert parse_time(text) == datetime(2026, int(text[5:7]), 28, hour, tzinfo=UTC)


@pytest.mark.usefixtures("berlin")
def test_times_are_shown_with_the_zone_of_the_machine() -> None:
    assert format_time(datetime(2026, 7, 28, 8, 0, tzinfo=UTC)) == "2026-07-28 10:00:00 CEST"
    assert format_time("2026-11-28T09:00:00.123456+00:00") == "2026-11-28 10:00:00 CET"


@pytest.mark.parametrize("text", ["", "yesterday", "10:00", "2026-13-01", "28.11.2026"])
def test_a_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a time"):
        parse_time(text)
