# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes, durations and times as people write them.

A *size* is bytes, written as ``10GiB``, ``512M`` (both powers of 1024) or ``5GB`` (powers of 1000); a *duration* is
seconds, written as ``90s``, ``5m``, ``1h``, ``1d``, ``250ms``. A *time* is that of the machine's time zone, unless it
says another.
"""

import re
from datetime import datetime

from cas3fs.errors import UsageError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b?)", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes from a text such as ``4096``, ``512K``, ``1MiB``, ``1.5GiB``; in ``5GB`` the unit is a power of 1000.

    Raises:
        UsageError: `text` is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size; write it as 512KiB, 64MiB or 10GiB")
    number, unit, suffix = match.groups()
    base = 1000 if unit and suffix.lower() == "b" else 1024
    return int(float(number) * base ** ("kmgtp".index(unit.lower()) + 1 if unit else 0))


def parse_duration(text: str) -> float:
    """Seconds from a text such as ``30``, ``30s``, ``5m``, ``1h``, ``250ms``.

    Raises:
        UsageError: `text` is not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a duration; write it as 30s, 5m or 1h")
    seconds = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
    return float(match.group(1)) * seconds[match.group(2)]


def format_size(size_bytes: float) -> str:
    """`size_bytes` for people: ``17 B``, ``1.5 MiB``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def format_duration(seconds: int) -> str:
    """`seconds` as `parse_duration` reads them, in the largest unit that divides them: ``90s``, ``1h``, ``2d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def format_age(age_s: float) -> str:
    """A rounded length of time for people: ``40 s``, ``5 min``, ``3 h``, ``12 days``."""
    for unit, length_s, limit_s in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if age_s < limit_s:
            return f"{age_s / length_s:.0f} {unit}"
    return f"{age_s / 86400:.0f} days"


def parse_time(text: str) -> datetime:
    """The time in a text such as ``2026-11-28 10:00``, ``2026-11-28``, ``2026-11-28T10:00:00+01:00``; local where it
    says no offset from UTC.

    Raises:
        UsageError: `text` is not a time.
    """
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a time; write it as '2026-11-28 10:00' or 2026-11-28T10:00+01:00") from None


def format_time(time: datetime | str) -> str:
    """A time with a zone, or its ISO form, as local time for people: ``2026-11-28 10:00:00 CET``."""
    known = datetime.fromisoformat(time) if isinstance(time, str) else time
    return known.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
