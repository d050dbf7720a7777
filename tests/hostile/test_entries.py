# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries in the store: arbitrary bytes are read, or refused with a clear error."""

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from cas3fs.blocks.chunkers import make_chunker
from cas3fs.blocks.codec import Compression
from cas3fs.blocks.codec import decode as decode_block
from cas3fs.entries.kinds import VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs, WriterIdentity
from cas3fs.errors import Cas3fsError, SnapshotDamaged, VolumeFormatError
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.divergence import TakeoverBases, write_takeover_base
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.retention import apply_policy, current_policy, set_policy
from cas3fs.snapshots.tree import ReferenceList, SegmentReference, encode_list
from cas3fs.volume.loading import load_volume
from tests.hostile.mutations import bytes_like, changed, head_of, sealed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTENT = bytes(range(256)) * 40
MAX_BYTES = 200_000
SNAPSHOT = "snapshots/00000001-0000000001"


def make_objects() -> dict[str, bytes]:
    """One object of each kind of entry, of a valid volume."""
    store = MemoryStore()
    shelf = Shelf(store)
    shelf.save(
        VolumeEntry(
            uuid=UUID(int=1),
            format=1,
            created=NOW,
            chunker="fastcdc",
            block_size=1 << 20,
            pack_size=1 << 24,
            compression="zstd:3",
            label="a label",
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        epochs = Epochs(shelf, now=lambda: NOW)
        claim = epochs.claim(WriterIdentity("host", "user", 1, "boot"), Path(folder) / "claim.json")
        epochs.release(claim)
        file = Path(folder) / "file"
        archive = SnapshotArchive(shelf, segment_size=512, list_length=4, now=lambda: NOW)
        parent = None
        for sequence in (1, 2):
            file.write_bytes(CONTENT[: 5000 * sequence])
            parent = archive.create(file, epoch=1, sequence=sequence, parent=parent, facts={"files": 1}).id
        epochs.claim(WriterIdentity("other", "user", 1, "boot"), Path(folder) / "second.json")
    write_takeover_base(shelf, "epochs/00000002", 2, parent)
    set_policy(shelf, RetentionPolicy(last=3, names=("v*",)), conditional_writes=True)
    return {info.key: store.get(info.key) for info in store.list()}


OBJECTS = make_objects()


def read_everything(store: MemoryStore) -> None:
    """Read everything that a mount reads, each item separately, so that one error hides no other."""
    shelf = Shelf(store)
    epochs, archive = Epochs(shelf), SnapshotArchive(shelf, workers=1)
    for read in (
        lambda: read_volume(store),
        lambda: claim_next(epochs),
        epochs.overruled,
        lambda: TakeoverBases(shelf).all(),
        lambda: apply_policy([], current_policy(shelf), NOW),
        archive.newest_id,
        lambda: archive.list(on_damaged=lambda one, error: None),
        *(lambda one=one: restore(archive, one) for one in ("00000001-0000000001", "00000001-0000000002")),
    ):
        read_or_refuse(read)


def read_or_refuse(read: Callable[[], object]) -> None:
    try:
        read()
    except Cas3fsError as error:
        assert str(error)
        str(error).encode()  # it can be printed


def read_volume(store: MemoryStore) -> None:
    entry = load_volume(store).entry
    assert 1 << 20 <= entry.pack_size <= 1 << 30
    make_chunker(entry.chunker, entry.block_size)
    Compression.parse(entry.compression)


def claim_next(epochs: Epochs) -> None:
    with tempfile.TemporaryDirectory() as folder:
        claim = epochs.claim(WriterIdentity("me", "user", 1), Path(folder) / "claim.json", take_over=True)
        assert 0 < claim.epoch < 1 << 23


def restore(archive: SnapshotArchive, snapshot: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        destination = Path(folder) / "restored"
        try:
            archive.restore(snapshot, destination)
        except BaseException:
            assert list(Path(folder).iterdir()) == []
            raise
        assert destination.stat().st_size <= len(CONTENT) + 5000


class WatchedStore(MemoryStore):
    """Fails if a range is requested that is larger than any valid request for these few bytes."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        assert length <= MAX_BYTES, f"{length} bytes of {key} are requested"
        return super().get_range(key, start, length)


def store_with(key: str, body: bytes) -> MemoryStore:
    store = WatchedStore()
    for name, old in OBJECTS.items():
        store.put_if_absent(name, body if name == key else old)
    return store


def test_the_valid_volume_can_be_read() -> None:
    store = store_with("", b"")
    read_volume(store)
    assert [info.id for info in SnapshotArchive(Shelf(store)).list()] == ["00000001-0000000001", "00000001-0000000002"]


@pytest.mark.parametrize("key", OBJECTS)
@settings(max_examples=settings.default.max_examples // 2)
@given(data=st.data())
def test_arbitrary_objects_are_read_or_refused(key: str, data: DataObject) -> None:
    read_everything(store_with(key, data.draw(bytes_like(OBJECTS[key]))))


@pytest.mark.parametrize("key", [key for key in OBJECTS if not key.startswith("pages/")])
@settings(max_examples=settings.default.max_examples // 2)
@given(data=st.data())
def test_entries_with_arbitrary_attributes_are_read_or_refused(key: str, data: DataObject) -> None:
    """Their checksums are right."""
    head = head_of(OBJECTS[key])
    changed_head = {**head, "attributes": data.draw(changed(head["attributes"]))}
    read_everything(store_with(key, sealed(changed_head)))


@pytest.mark.parametrize("key", OBJECTS)
@pytest.mark.parametrize(
    "head",
    [
        b"[" * 100_000,
        b'{"kind":' * 50_000,
        b"null",
        b"[]",
        b'{"kind": 1, "key": 2, "attributes": 3}',
        b"\xff",
        b"1" * 5000,
    ],
    ids=["brackets", "braces", "null", "list", "numbers", "no text", "digits"],
)
def test_an_invalid_head_is_refused(key: str, head: bytes) -> None:
    read_everything(store_with(key, sealed(head)))
    if key == "volume":
        with pytest.raises(VolumeFormatError):
            load_volume(store_with(key, sealed(head)))


def store_with_list(stored: bytes, length: int | None = None) -> MemoryStore:
    """A store with one snapshot, whose first list is `stored` and declared to be `length` bytes long."""
    head = head_of(OBJECTS[SNAPSHOT])
    [(name, *_), *rest] = head["attributes"]["parts"]
    first = [name, len(OBJECTS[name]), len(stored) if length is None else length, blake3(stored).hexdigest()]
    store = WatchedStore()
    store.put_if_absent(name, OBJECTS[name] + stored + bytes(MAX_BYTES))
    store.put_if_absent(SNAPSHOT, sealed({**head, "attributes": {**head["attributes"], "parts": [first, *rest]}}))
    return store


def first_list() -> bytes:
    name, offset, length, _ = head_of(OBJECTS[SNAPSHOT])["attributes"]["parts"][0]
    return OBJECTS[name][offset : offset + length]


@given(stored=bytes_like(first_list()))
def test_arbitrary_bytes_of_a_list_are_read_or_refused(stored: bytes) -> None:
    archive = SnapshotArchive(Shelf(store_with_list(stored)), workers=1)
    read_or_refuse(lambda: restore(archive, SNAPSHOT.removeprefix("snapshots/")))


@given(plain=bytes_like(decode_block(first_list()[4:], int.from_bytes(first_list()[:4], "big"))))
def test_arbitrary_references_of_a_list_are_read_or_refused(plain: bytes) -> None:
    stored = len(plain).to_bytes(4, "big") + b"\0" + plain
    archive = SnapshotArchive(Shelf(store_with_list(stored)), workers=1)
    read_or_refuse(lambda: restore(archive, SNAPSHOT.removeprefix("snapshots/")))


def test_a_list_that_is_declared_too_long_is_not_read() -> None:
    archive = SnapshotArchive(Shelf(store_with_list(first_list(), MAX_BYTES + 1)), workers=1)
    with pytest.raises(SnapshotDamaged, match="list"):
        restore(archive, SNAPSHOT.removeprefix("snapshots/"))


def test_a_segment_that_is_declared_too_long_is_not_read() -> None:
    reference = SegmentReference(bytes(16), "00000001-0000000001", 0, MAX_BYTES + 1)
    archive = SnapshotArchive(
        Shelf(store_with_list(encode_list(ReferenceList([reference] * 4), Compression.parse("none")))), workers=1
    )
    with pytest.raises(SnapshotDamaged, match="segment"):
        restore(archive, SNAPSHOT.removeprefix("snapshots/"))


@given(names=st.lists(st.from_regex(r"[0-9A-Za-z_][0-9A-Za-z_.=@-]{0,199}", fullmatch=True), max_size=4))
@example(names=["9" * 190])
@example(names=["00000003-" + "0" * 32, "00000003"])
@example(names=["4294967296"])
def test_arbitrary_epoch_and_snapshot_names_are_read_or_refused(names: list[str]) -> None:
    for folder, body in (
        ("epochs", OBJECTS["epochs/00000002"]),
        ("snapshots", OBJECTS["snapshots/00000001-0000000001"]),
    ):
        store = store_with("", b"")
        for name in set(names):
            if f"{folder}/{name}" not in OBJECTS:
                head = head_of(body)
                store.put_if_absent(f"{folder}/{name}", sealed({**head, "key": f"{folder}/{name}"}))
        read_everything(store)
