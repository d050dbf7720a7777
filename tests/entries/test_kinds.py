# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of a volume are consistent."""

import json
import uuid
from datetime import UTC, datetime

import attrs
import pytest

from cas3fs.entries.attributes import stored_fields, to_attributes, to_metadata
from cas3fs.entries.entry import Entry
from cas3fs.entries.kinds import (
    ALL_KINDS,
    BaseEntry,
    CopyEntry,
    EpochEntry,
    PackEntry,
    PagesEntry,
    PagesUse,
    PartEntry,
    PolicyEntry,
    ReleaseEntry,
    SnapshotEntry,
    VolumeEntry,
)
from cas3fs.entries.nodes import Part
from cas3fs.entries.shelf import Shelf
from cas3fs.objectstores.memory import MemoryStore

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
CLAIM = uuid.UUID(int=5)
EXAMPLES: list[tuple[Entry, str]] = [
    (
        VolumeEntry(
            uuid=CLAIM,
            format=1,
            created=NOW,
            chunker="fastcdc",
            block_size=2**20,
            pack_size=2**24,
            compression="zstd:3",
            label="Fotos Ä",
        ),
        "volume",
    ),
    (
        EpochEntry(id="00000007", epoch=7, claim=CLAIM, host="h", user="u", pid=1, boot_id="b", time=NOW),
        "epochs/00000007",
    ),
    (ReleaseEntry(owner="epochs/00000007", claim=CLAIM, time=NOW), "epochs/00000007.released"),
    (BaseEntry(owner="epochs/00000007", epoch=7, snapshot="00000005-0000000009"), "epochs/00000007.base"),
    (PolicyEntry(id="00000003", time=NOW, keep={"last": 5}, keep_names=("v*",)), "policies/00000003"),
    (CopyEntry(id="00000001", source=CLAIM, started=NOW), "copies/00000001"),
    (
        SnapshotEntry(
            id="00000007-0000000001",
            epoch=7,
            sequence=1,
            name="before",
            time=NOW,
            index_size=9,
            segment_size=4,
            list_length=2,
            parts=(Part("pages/00000007-0000000001", 9, 9, bytes(32)),),
            pages=(PagesUse("00000007-0000000001", 9, 10),),
            facts={"files": 3},
        ),
        "snapshots/00000007-0000000001",
    ),
    (PagesEntry(id="00000007-0000000001", epoch=7, sequence=1, time=NOW), "pages/00000007-0000000001"),
]


@pytest.mark.parametrize(("entry", "key"), EXAMPLES, ids=lambda value: getattr(value, "kind", ""))
def test_every_kind_is_saved_under_its_key_and_loads_the_same(entry: Entry, key: str) -> None:
    shelf = Shelf(MemoryStore())
    shelf.save(entry, b"data")
    assert [info.key for info in shelf.store.list()] == [key]
    loaded, data = shelf.load_with_data(type(entry), entry.id, entry.owner)
    assert (loaded, bytes(data)) == (entry, b"data")


@pytest.mark.parametrize("entry", [entry for entry, _ in EXAMPLES], ids=lambda entry: entry.kind)
def test_attributes_are_json_and_metadata_is_short(entry: Entry) -> None:
    assert json.loads(json.dumps(to_attributes(entry))).keys() == to_attributes(entry).keys()
    assert sum(len(name) + len(value) for name, value in to_metadata(entry).items()) < 1000


def test_names_of_kinds_are_unique() -> None:
    assert len({kind.kind for kind in ALL_KINDS}) == len(ALL_KINDS)
    folders = [kind.folder for kind in ALL_KINDS if kind.folder]
    assert len(set(folders)) == len(folders)


def test_a_kind_without_frame_has_a_default_for_every_attribute() -> None:
    for kind in (PackEntry, PartEntry):
        assert all(field.default is not attrs.NOTHING for field in stored_fields(kind))
    assert {kind for kind in ALL_KINDS if not kind.framed} == {PackEntry, PartEntry}


def test_an_id_is_generated_only_for_kinds_that_generate_them() -> None:
    assert PartEntry.new_id(b"x") == PartEntry.new_id(b"x") != PartEntry.new_id(b"y")
    with pytest.raises(ValueError, match="chosen by the caller"):
        EpochEntry.new_id()


def test_a_kind_without_folder_is_not_listed() -> None:
    with pytest.raises(ValueError, match="folder"):
        list(Shelf(MemoryStore()).list_entries(VolumeEntry))
