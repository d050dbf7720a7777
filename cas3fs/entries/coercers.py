# SPDX-License-Identifier: GPL-3.0-or-later
"""Coercers: they make the value of an attribute from JSON or from user metadata.

Each accepts the JSON form, the text form (user metadata is text) and the value itself, and raises ValueError or
TypeError, with a short text, for anything else. `to_plain` and `to_text` are the ways back.

They are written by hand rather than left to cattrs, which would save only `optional`, `tuple_of` and `to_plain`. cattrs
checks values when it reads JSON; entries are checked however they are made, also by their constructor and by `changed`,
and the text form needs the same checks. Its hooks for these types would be the functions below.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypeVar
from urllib.parse import quote

T = TypeVar("T")


MAX_NUMBER: Final = 2**63 - 1
"""The largest number that a database or the size of a file can be."""


def to_string(value: Any) -> str:
    """A string that can be encoded as UTF-8; escapes in JSON may produce others."""
    if not isinstance(value, str):
        raise TypeError("not a string")
    value.encode()
    return value


def to_natural(value: Any) -> int:
    """A whole number from zero to `MAX_NUMBER`."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("not a whole number")
    if value < 0:
        raise ValueError("negative")
    if value > MAX_NUMBER:
        raise ValueError("too large")
    return value


def to_bytes(value: Any) -> bytes:
    """Bytes, from them or from hex digits."""
    return value if isinstance(value, bytes) else bytes.fromhex(to_string(value))


def to_boolean(value: Any) -> bool:
    """True or false."""
    if value in ("true", "false"):
        return bool(value == "true")
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def to_timestamp(value: Any) -> datetime:
    """A time in UTC, from ISO 8601 with a time zone."""
    parsed = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(parsed, datetime):
        raise TypeError("not a time")
    if parsed.tzinfo is None:
        raise ValueError("a time without a time zone")
    return parsed.astimezone(UTC)


def to_uuid(value: Any) -> uuid.UUID:
    """A UUID."""
    if isinstance(value, uuid.UUID):
        return value
    return uuid.UUID(to_string(value))


def to_counts(value: Any) -> Mapping[str, int]:
    """A read-only mapping of names to whole numbers."""
    if not isinstance(value, Mapping):
        raise TypeError("not a mapping of names to numbers")
    return MappingProxyType({to_string(name): to_natural(number) for name, number in value.items()})


def optional(coerce: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """A coercer that also accepts None."""

    def coerce_unless_none(value: Any) -> T | None:
        return None if value is None else coerce(value)

    return coerce_unless_none


def tuple_of(coerce: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """A coercer of lists and tuples to tuples."""

    def coerce_each(value: Any) -> tuple[T, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise TypeError("not a list")
        return tuple(coerce(one) for one in value)

    return coerce_each


def to_plain(value: Any) -> Any:
    """The JSON form of an attribute's value."""
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
    """The text form of an attribute's value: printable ASCII."""
    plain = to_plain(value)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    return quote(str(plain), safe=":+/,;@()=")
