# SPDX-License-Identifier: GPL-3.0-or-later
"""Coercers: from what JSON or a metadata string holds to the value of an attribute.

Each takes the plain form (JSON), the text form (user metadata is text) and the value itself, and raises ValueError or
TypeError, with a few words, for anything else. `to_plain` is the way back to JSON, `to_text` to metadata.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypeVar
from urllib.parse import quote

T = TypeVar("T")


LARGEST_NUMBER: Final = 2**63 - 1
"""What a database, and a file's size, can hold."""


def text(value: Any) -> str:
    """A string that can be written as UTF-8, which JSON's escapes do not ensure."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()
    return value


def natural(value: Any) -> int:
    """A whole number from zero to `LARGEST_NUMBER`."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("not a whole number")
    if value < 0:
        raise ValueError("less than zero")
    if value > LARGEST_NUMBER:
        raise ValueError("too large")
    return value


def flag(value: Any) -> bool:
    """True or false."""
    if value in ("true", "false"):
        return bool(value == "true")
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def moment(value: Any) -> datetime:
    """An instant, in UTC, from ISO 8601 with a time zone."""
    parsed = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(parsed, datetime):
        raise TypeError("not a time")
    if parsed.tzinfo is None:
        raise ValueError("a time without a time zone")
    return parsed.astimezone(UTC)


def identifier(value: Any) -> uuid.UUID:
    """A UUID."""
    if isinstance(value, uuid.UUID):
        return value
    return uuid.UUID(text(value))


def counts(value: Any) -> Mapping[str, int]:
    """Numbers by name, read-only."""
    if not isinstance(value, Mapping):
        raise TypeError("not a table of numbers")
    return MappingProxyType({text(name): natural(number) for name, number in value.items()})


def optional(coerce: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """A coercer that lets None pass."""

    def coerce_unless_none(value: Any) -> T | None:
        return None if value is None else coerce(value)

    return coerce_unless_none


def sequence_of(coerce: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """A coercer of lists to tuples."""

    def coerce_each(value: Any) -> tuple[T, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise TypeError("not a list")
        return tuple(coerce(one) for one in value)

    return coerce_each


def to_plain(value: Any) -> Any:
    """What JSON can hold of an attribute's value."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {name: to_plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(one) for one in value]
    return value


def to_text(value: Any) -> str:
    """An attribute's value as user metadata: printable ASCII."""
    plain = to_plain(value)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    return quote(str(plain), safe=":+/,;@()=")
