# SPDX-License-Identifier: GPL-3.0-or-later
"""A sealed store gives back what was put, says what is damaged, and shows nothing to those without the keys.

That it is an object store like any other is shown by the contract of object stores.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.encryption.ciphers import CIPHERS
from cas3fs.encryption.keyring import Keyring, ObjectKeys
from cas3fs.encryption.sealing import HEADER_BYTES, PIECE_BYTES, SEALED_PIECE_BYTES
from cas3fs.errors import ObjectDamaged, ObjectTooShort
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.objectstores.wrappers import MeasuredStore, sealed
from cas3fs.objectstores.wrappers.sealed import SealedStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEYRING = Keyring.new(NOW)
UUID = b"u" * 16
CONTENT = b"".join(number.to_bytes(4, "big") for number in range(40_000))
READS: dict[str, Callable[[ObjectStore, str], object]] = {
    "get": lambda store, key: store.get(key),
    "within": lambda store, key: store.get_within(key, 1 << 20),
    "range": lambda store, key: store.get_range(key, 70_000, 1000),
    "pieces": lambda store, key: store.get_pieces(key, 10, (70_000, 5000), bytes),
}


def keys_of(keyring: Keyring = KEYRING, uuid: bytes = UUID) -> ObjectKeys:
    return ObjectKeys(keyring, uuid, CIPHERS[0])


def filled(*keys: str) -> tuple[MemoryStore, SealedStore]:
    inner = MemoryStore()
    store = SealedStore(inner, keys_of())
    for key in keys:
        store.put_if_absent(key, CONTENT)
    return inner, SealedStore(inner, keys_of())  # which remembers no header


def replace(store: MemoryStore, key: str, body: bytes) -> None:
    store.delete_many([key])
    store.put_if_absent(key, body)


def pack_key(folder: str = "00000001") -> str:
    return f"packs/{folder}/{keys_of().name_content(CONTENT)}"


@given(st.data())
def test_any_pieces_of_an_object_can_be_read(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(["pages/a", pack_key(), pack_key("00000001.0002")]))
    _, store = filled(key)
    at_once = data.draw(st.sampled_from([1, 2, 15]))
    start = data.draw(st.integers(0, len(CONTENT)))
    lengths: list[int] = []
    while len(lengths) < 5:
        lengths.append(data.draw(st.integers(0, len(CONTENT) - start - sum(lengths))))
    pieces: list[bytes] = []
    with mock.patch.object(sealed, "_PIECES_AT_ONCE", at_once):
        store.get_pieces(key, start, lengths, pieces.append)
    assert [len(piece) for piece in pieces] == lengths
    assert b"".join(pieces) == CONTENT[start : start + sum(lengths)]


@pytest.mark.parametrize("at_once", [1, 2, 15])
@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_ranges_at_the_end_of_whole_pieces(pieces: int, at_once: int) -> None:
    size = pieces * PIECE_BYTES
    store = SealedStore(MemoryStore(), keys_of())
    store.put_if_absent("pages/a", CONTENT[:size])
    assert store.get("pages/a") == CONTENT[:size]
    with mock.patch.object(sealed, "_PIECES_AT_ONCE", at_once):
        assert store.get_range("pages/a", 0, size) == CONTENT[:size]
        for start, length in ((0, size + 1), (size, 1), (max(size - 1, 0), 2)):
            with pytest.raises(ObjectTooShort):
                store.get_range("pages/a", start, length)


@pytest.mark.promise("a-forged-object-is-refused")
@pytest.mark.parametrize("at_once", [1, 2, 15])
def test_pieces_that_are_missing_at_the_end_are_noticed_by_who_reads_there(at_once: int) -> None:
    inner, store = filled("pages/a")
    whole = inner.get("pages/a")
    with mock.patch.object(sealed, "_PIECES_AT_ONCE", at_once):
        for kept in (0, 1, 2):
            end = kept * PIECE_BYTES
            replace(inner, "pages/a", whole[: HEADER_BYTES + kept * SEALED_PIECE_BYTES])
            taken: list[bytes] = []
            with pytest.raises(ObjectTooShort):
                store.get_pieces("pages/a", 0, (end, 1), taken.append)
            assert b"".join(taken) in (b"", CONTENT[:end])
            with pytest.raises(ObjectDamaged):
                store.get("pages/a")


def test_bytes_that_were_delivered_never_change_and_nothing_else_is_kept() -> None:
    _, store = filled("pages/a")
    first, second = (store.get_range("pages/a", start, 100_000) for start in (0, 50_000))
    assert type(first) is type(second) is bytes
    assert first == CONTENT[:100_000]
    assert second == CONTENT[50_000:150_000]
    assert all(sys.getsizeof(piece) - sys.getsizeof(b"") == 100_000 for piece in (first, second))


@pytest.mark.promise("a-forged-object-is-refused")
@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("key", ["pages/a", pack_key()], ids=["pages", "pack"])
@given(data=st.data())
def test_a_changed_byte_is_never_believed(
    key: str, read: Callable[[ObjectStore, str], object], data: st.DataObject
) -> None:
    inner, store = filled(key)
    body = bytearray(inner.get(key))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    replace(inner, key, bytes(body))
    whole = store.get_within if read in (READS["get"], READS["within"]) else None
    try:
        found = read(store, key)
    except ObjectDamaged as error:
        assert key in str(error)
        return
    assert whole is None, "a whole object was believed"
    expected = read(filled(key)[1], key)  # the byte lies in a piece that was not read
    assert found == expected


@pytest.mark.promise("a-forged-object-is-refused")
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_an_object_stands_for_no_other(read: Callable[[ObjectStore, str], object]) -> None:
    inner, store = filled("pages/a", "pages/b")
    replace(inner, "pages/b", inner.get("pages/a"))
    with pytest.raises(ObjectDamaged, match="pages/b"):
        read(store, "pages/b")
    for stranger in (keys_of(uuid=b"v" * 16), keys_of(Keyring.new(NOW))):
        with pytest.raises(ObjectDamaged, match="pages/a"):
            read(SealedStore(inner, stranger), "pages/a")


@pytest.mark.promise("a-forged-object-is-refused")
@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("cut", [0, 10, 48, 48 + PIECE_BYTES + 16, 48 + 2 * (PIECE_BYTES + 16), -1])
def test_an_object_that_was_cut_off_is_noticed(cut: int, read: Callable[[ObjectStore, str], object]) -> None:
    inner, store = filled("pages/a")
    replace(inner, "pages/a", inner.get("pages/a")[:cut])
    assert store.head("pages/a").size != len(CONTENT)
    if read in (READS["get"], READS["within"]):
        with pytest.raises(ObjectDamaged):
            read(store, "pages/a")


def test_a_pack_is_read_with_one_request() -> None:
    inner, _ = filled(pack_key())
    metrics = Metrics()
    store = SealedStore(MeasuredStore(inner, metrics), keys_of())
    assert store.get_range(pack_key(), 150_000, 100) == CONTENT[150_000:150_100]
    assert metrics.counter("store.requests").value == 1


def test_a_header_that_was_learned_saves_a_request() -> None:
    inner = MemoryStore()
    writer = SealedStore(inner, keys_of())
    writer.put_if_absent("pages/a", CONTENT)
    for learns, requests in ((False, 2), (True, 1)):
        metrics = Metrics()
        reader = SealedStore(MeasuredStore(inner, metrics), keys_of())
        if learns:
            reader.learn_seal("pages/a", writer.seal_of("pages/a"))
        assert reader.get_range("pages/a", 70_000, 9) == CONTENT[70_000:70_009]
        assert metrics.counter("store.requests").value == requests


def test_a_wrong_header_that_was_learned_is_no_harm_but_an_error() -> None:
    inner, store = filled("pages/a")
    other = SealedStore(inner, keys_of())
    other.put_if_absent("pages/b", b"")
    store.learn_seal("pages/a", "no header")
    assert store.seal_of("pages/a") == ""
    store.learn_seal("pages/a", other.seal_of("pages/b"))
    with pytest.raises(ObjectDamaged):
        store.get_range("pages/a", 70_000, 9)


@pytest.mark.promise("the-store-learns-no-content")
def test_metadata_and_names_tell_nothing() -> None:
    inner = MemoryStore()
    store = SealedStore(inner, keys_of())
    store.put_if_absent("pages/a", CONTENT, {"cas3-kind": "pages", "cas3-label": "private"})
    assert inner.head("pages/a").metadata == {"cas3-kind": "pages"}
    assert CONTENT[:16] not in inner.get("pages/a")
    assert store.hash_content(CONTENT) != inner.hash_content(CONTENT)


def test_what_opens_a_volume_is_stored_as_it_is() -> None:
    inner = MemoryStore()
    store = SealedStore(inner, keys_of())
    for key in ("volume", "keys/1", "keyring/1", "probe/1", "damaged/pages/1"):
        store.put_if_absent(key, b"plain")
        assert inner.get(key) == store.get(key) == store.get_range(key, 0, 5) == b"plain"
        assert store.head(key).size == 5


def test_a_newer_generation_is_fetched_when_it_is_met() -> None:
    inner = MemoryStore()
    rotated = KEYRING.rotated(NOW)
    newer = SealedStore(inner, keys_of(rotated))
    newer.put_if_absent("pages/new", CONTENT)
    pack = f"packs/00000001/{newer.name_content(CONTENT)}"
    newer.put_if_absent(pack, CONTENT)
    for key in ("pages/new", pack):
        older = SealedStore(inner, keys_of(), lambda: keys_of(rotated))
        assert older.get(key) == CONTENT
        without = SealedStore(inner, keys_of())
        with pytest.raises(ObjectDamaged, match="generation 2"):
            without.get(key)
        never = SealedStore(inner, keys_of(), keys_of)
        with pytest.raises(ObjectDamaged, match="generation 2"):
            never.get(key)


def test_putting_again_never_uses_a_key_twice() -> None:
    inner = MemoryStore()
    store = SealedStore(inner, keys_of())
    bodies = set()
    for _ in range(3):
        store.put_if_absent("snapshots/1", b"same")
        bodies.add(inner.get("snapshots/1")[16:48])
        store.delete_many(["snapshots/1"])
    assert len(bodies) == 3  # salts
    store.put_if_absent(pack_key(), CONTENT)
    first = inner.get(pack_key())
    store.delete_many([pack_key()])
    store.put_if_absent(pack_key(), CONTENT)
    assert inner.get(pack_key()) == first  # one name, one content, the same bytes
