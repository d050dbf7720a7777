# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes of entries: how they are declared, written as JSON and as user metadata, and read.

attrs does most of it: `attribute` is a field with a converter and perhaps a default, `entry_kind` makes a frozen class
with keyword arguments. A value that cannot be coerced raises `InvalidAttribute`, which shows attribute and value, and
the object where it was read from the store.

As user metadata, an attribute ``base_size`` has the name ``cas3-base-size``; names are in lower case, as some stores
change their case. Values are percent-encoded, so that they are printable ASCII. An attribute is left out where it is
None or longer than `MAX_METADATA_VALUE_LENGTH`: stores allow 2 KiB for all metadata of an object.
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
MAX_METADATA_VALUE_LENGTH: Final = 300
_STORED: Final = "cas3fs.stored"
_IN_METADATA: Final = "cas3fs.in_metadata"


def attribute(coerce: Callable[[Any], T], *, default: Any = attrs.NOTHING, metadata: bool = False) -> T:
    """Declare an attribute of a kind.

    Args:
        coerce: makes the value of its JSON form, its text form or itself (`coercers`).
        default: the value where the object has none; an attribute without a default is required.
        metadata: whether it is also stored as user metadata, so that a HEAD shows it.
    """
    notes = {_STORED: True, _IN_METADATA: metadata}
    return attrs.field(default=default, converter=_converter(coerce), metadata=notes)  # type: ignore[no-any-return]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(attribute,))
def entry_kind(cls: type[T]) -> type[T]:
    """Make `cls` a kind of entries: a frozen class with keyword arguments."""
    return attrs.frozen(cls, kw_only=True)


def stored_fields(cls: type) -> list["attrs.Attribute[Any]"]:
    """The stored attributes of a kind, in the order of their declaration."""
    return [field for field in attrs.fields(cls) if field.metadata.get(_STORED)]


def to_attributes(entry: Any) -> dict[str, Any]:
    """The attributes of `entry` in their JSON form."""
    return {field.name: to_plain(getattr(entry, field.name)) for field in stored_fields(type(entry))}


def to_metadata(entry: Any) -> dict[str, str]:
    """The user metadata of `entry`."""
    in_metadata = [field.name for field in stored_fields(type(entry)) if field.metadata[_IN_METADATA]]
    values = {name: getattr(entry, name) for name in in_metadata}
    texts = {metadata_name(name): to_text(value) for name, value in values.items() if value is not None}
    return {name: value for name, value in texts.items() if len(value) <= MAX_METADATA_VALUE_LENGTH}


def from_metadata(cls: type, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The attributes of a kind in `metadata`, as text."""
    lower = {name.lower(): value for name, value in metadata.items()}
    names = [field.name for field in stored_fields(cls) if field.metadata[_IN_METADATA]]
    return {name: unquote(lower[metadata_name(name)]) for name in names if metadata_name(name) in lower}


def metadata_name(name: str) -> str:
    """The name of an attribute in user metadata."""
    return METADATA_PREFIX + name.replace("_", "-")


def split_values(cls: type, key: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the `values` of object `key` into those that the kind declares and all others.

    Raises:
        MissingAttribute: a required attribute is missing.
    """
    fields = {field.name: field for field in stored_fields(cls)}
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in values:
            raise MissingAttribute(f"{key}: the required attribute {name!r} of a {cls.__name__} is missing")
    known = {name: value for name, value in values.items() if name in fields}
    return known, {name: value for name, value in values.items() if name not in fields}


def build_entry(cls: type[T], key: str, **values: Any) -> T:
    """An entry of the `values` of object `key`.

    Raises:
        InvalidAttribute: a value cannot be coerced; the text shows the object, the attribute and the value.
        EntryCorrupt: no entry of this kind can have that key.
    """
    try:
        return cls(**values)
    except InvalidAttribute as error:
        raise InvalidAttribute(f"{key}: {error}") from error
    except ValueError as error:
        raise EntryCorrupt(f"{key}: {error}") from error


def _converter(coerce: Callable[[Any], T]) -> Any:
    def convert(value: Any, field: Any) -> T:
        try:
            return coerce(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidAttribute(f"attribute {field.name!r} cannot be {_shortened(value)}: {error}") from error

    return attrs.Converter(convert, takes_field=True)


def _shortened(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
