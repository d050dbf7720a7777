# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes of entries: declared with `attribute`, written as JSON and as user metadata, read back and coerced.

attrs does the work: `attribute` is a field with a converter and perhaps a default, `stored_kind` a frozen class whose
arguments are all named. A value that cannot be coerced raises `InvalidAttribute`, which names kind, attribute and
value; when it was read from the store, the object too.

As user metadata, an attribute ``base_size`` is named ``cas3-base-size``: some stores change the case of names, so they
are all lower case; what is no printable ASCII is percent-encoded. None does not travel, nor does what is longer than
`LONGEST_TRAVELLER`: stores allow 2 KiB for all metadata of an object.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, dataclass_transform
from urllib.parse import unquote

import attrs

from cas3fs.entries.coercers import to_plain, to_text
from cas3fs.errors import EntryCorrupt, InvalidAttribute, MissingAttribute

T = TypeVar("T")

METADATA_PREFIX: Final = "cas3-"
KIND_METADATA: Final = METADATA_PREFIX + "kind"
LONGEST_TRAVELLER: Final = 300
_STORED: Final = "cas3fs.stored"
_TRAVELS: Final = "cas3fs.travels"


def attribute(coerce: Callable[[Any], T], *, default: Any = attrs.NOTHING, metadata: bool = False) -> T:
    """Declare an attribute of a kind.

    Args:
        coerce: from JSON's value, text or the value itself to the value; ValueError or TypeError otherwise.
        default: what it is where the object has none; without it the attribute is required.
        metadata: also travels as user metadata, so that a HEAD shows it.
    """
    notes = {_STORED: True, _TRAVELS: metadata}
    return attrs.field(default=default, converter=_named(coerce), metadata=notes)  # type: ignore[no-any-return]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attribute,))
def stored_kind(cls: type[T]) -> type[T]:
    """Make `cls` a kind: a frozen class with named arguments."""
    return attrs.frozen(cls, kw_only=True)


def stored_fields(cls: type) -> list["attrs.Attribute[Any]"]:
    """The attributes of a kind that are stored, in the order of their declaration."""
    return [field for field in attrs.fields(cls) if field.metadata.get(_STORED)]


def to_attributes(entry: Any) -> dict[str, Any]:
    """The attributes of `entry` as JSON holds them."""
    return {field.name: to_plain(getattr(entry, field.name)) for field in stored_fields(type(entry))}


def to_metadata(entry: Any) -> dict[str, str]:
    """The attributes of `entry` that travel, as user metadata."""
    travelling = [field.name for field in stored_fields(type(entry)) if field.metadata[_TRAVELS]]
    values = {name: getattr(entry, name) for name in travelling}
    texts = {metadata_name(name): to_text(value) for name, value in values.items() if value is not None}
    return {name: value for name, value in texts.items() if len(value) <= LONGEST_TRAVELLER}


def from_metadata(cls: type, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The attributes of a kind that `metadata` holds, as text."""
    lower = {name.lower(): value for name, value in metadata.items()}
    names = [field.name for field in stored_fields(cls) if field.metadata[_TRAVELS]]
    return {name: unquote(lower[metadata_name(name)]) for name in names if metadata_name(name) in lower}


def metadata_name(name: str) -> str:
    """What attribute `name` is called as user metadata."""
    return METADATA_PREFIX + name.replace("_", "-")


def arguments(cls: type, key: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to make a kind with, from the `values` that object `key` holds, and those that the kind does not know.

    Raises:
        MissingAttribute: a required attribute is absent.
    """
    fields = {field.name: field for field in stored_fields(cls)}
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in values:
            raise MissingAttribute(f"{key}: required attribute {name!r} of a {cls.__name__} is absent")
    known = {name: value for name, value in values.items() if name in fields}
    return known, {name: value for name, value in values.items() if name not in fields}


def construct(cls: type[T], key: str, **values: Any) -> T:
    """A `cls` of what object `key` holds.

    Raises:
        InvalidAttribute: one cannot be coerced; the text names the object, the attribute and the value.
        EntryCorrupt: the key is none of an entry of this kind.
    """
    try:
        return cls(**values)
    except InvalidAttribute as error:
        raise InvalidAttribute(f"{key}: {error}") from error
    except ValueError as error:
        raise EntryCorrupt(f"{key}: {error}") from error


def _named(coerce: Callable[[Any], T]) -> Any:
    def convert(value: Any, field: Any) -> T:
        try:
            return coerce(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidAttribute(f"attribute {field.name!r} cannot be {_shortened(value)}: {error}") from error

    return attrs.Converter(convert, takes_field=True)


def _shortened(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
