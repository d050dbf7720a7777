# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes are coerced, shown in errors, and kept where they are unknown."""

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import ClassVar

import attrs
import pytest

from cas3fs.entries.attributes import (
    MAX_METADATA_VALUE_LENGTH,
    attribute,
    entry_kind,
    from_metadata,
    to_attributes,
    to_metadata,
)
from cas3fs.entries.coercers import (
    optional,
    to_boolean,
    to_counts,
    to_natural,
    to_string,
    to_timestamp,
    to_uuid,
    tuple_of,
)
from cas3fs.entries.entry import Entry, IdSource
from cas3fs.errors import InvalidAttribute
from cas3fs.objectstores.base import check_metadata

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
WHO = uuid.UUID(int=7)


@entry_kind
class Letter(Entry):
    """A kind for these tests."""

    kind: ClassVar[str] = "letter"
    folder: ClassVar[str] = "letters"
    ids: ClassVar[IdSource] = IdSource.RANDOM

    to: str = attribute(to_string, metadata=True)
    pages: int = attribute(to_natural, default=1, metadata=True)
    sent: datetime | None = attribute(optional(to_timestamp), default=None, metadata=True)
    urgent: bool = attribute(to_boolean, default=False, metadata=True)
    sender: uuid.UUID = attribute(to_uuid, default=WHO, metadata=True)
    copies: tuple[str, ...] = attribute(tuple_of(to_string), default=())


FULL = Letter(id="one", to="Zoë & co", pages=3, sent=WHEN, urgent=True, copies=("a", "b"))


def test_attributes_survive_json() -> None:
    read = json.loads(json.dumps(to_attributes(FULL)))
    assert Letter(id="one", **read) == FULL


def test_attributes_survive_metadata_that_any_store_takes() -> None:
    metadata = to_metadata(FULL)
    assert check_metadata(metadata) == metadata
    assert Letter(id="one", copies=("a", "b"), **from_metadata(Letter, metadata)) == FULL


def test_metadata_is_found_whatever_case_its_names_have() -> None:
    shouted = {name.upper(): value for name, value in to_metadata(FULL).items()}
    assert from_metadata(Letter, shouted)["pages"] == "3"


def test_only_declared_attributes_become_metadata_and_none_does_not() -> None:
    assert set(to_metadata(Letter(id="one", to="x"))) == {"cas3-to", "cas3-pages", "cas3-urgent", "cas3-sender"}


def test_a_long_value_stays_in_the_body() -> None:
    assert "cas3-to" not in to_metadata(Letter(id="one", to="x" * (MAX_METADATA_VALUE_LENGTH + 1)))


def test_a_value_that_cannot_be_coerced_is_named() -> None:
    with pytest.raises(InvalidAttribute, match=r"'pages' cannot be 'three'"):
        Letter(id="one", to="x", pages="three")  # type: ignore[arg-type]


def test_a_huge_bad_value_is_shortened_in_the_error() -> None:
    with pytest.raises(InvalidAttribute) as caught:
        Letter(id="one", to="x", pages="9" * 10_000 + "x")  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


def test_entries_are_immutable() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        FULL.pages = 4  # type: ignore[misc]


def test_a_changed_entry_is_another_one() -> None:
    changed = FULL.changed(id="two", pages="9")
    assert (changed.id, changed.pages, changed.to, FULL.pages) == ("two", 9, FULL.to, 3)


@pytest.mark.parametrize("entry_id", ["", "a.b", "/a", "a/", "a//b", "../a", "-a", "a b", "ä", "a/.b", "a\n"])
def test_an_id_that_could_not_be_a_key_is_refused(entry_id: str) -> None:
    with pytest.raises(ValueError, match="id"):
        Letter(id=entry_id, to="x")


def test_random_ids_are_unique() -> None:
    assert len({Letter.new_id() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("coerce", "good", "value"),
    [
        (to_natural, 0, 0),
        (to_natural, "12", 12),
        (to_boolean, True, True),
        (to_boolean, "false", False),
        (to_timestamp, "2026-01-02T03:04:05.000678+00:00", WHEN),
        (to_timestamp, WHEN.astimezone(timezone(timedelta(hours=5))), WHEN),
        (to_uuid, str(WHO), WHO),
        (optional(to_natural), None, None),
        (tuple_of(to_natural), [1, "2"], (1, 2)),
        (to_counts, {"files": 3}, {"files": 3}),
    ],
)
def test_coercers_take_plain_and_text_forms(coerce: object, good: object, value: object) -> None:
    assert coerce(good) == value  # type: ignore[operator]


@pytest.mark.parametrize(
    ("coerce", "bad"),
    [
        (to_string, 1),
        (to_natural, -1),
        (to_natural, True),
        (to_natural, 1.0),
        (to_natural, "-1"),
        (to_natural, None),
        (to_boolean, 1),
        (to_boolean, "yes"),
        (to_timestamp, "2026-01-02T03:04:05"),
        (to_timestamp, "soon"),
        (to_timestamp, 5),
        (to_uuid, "no uuid"),
        (to_uuid, 5),
        (tuple_of(to_string), "ab"),
        (tuple_of(to_string), [1]),
        (to_counts, []),
        (to_counts, {"files": -1}),
    ],
)
def test_coercers_refuse_anything_else(coerce: object, bad: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        coerce(bad)  # type: ignore[operator]
