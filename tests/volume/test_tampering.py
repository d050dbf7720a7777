# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever can write to the store of an encrypted volume alters, swaps and replaces objects: no wrong byte is read.

What is read is what was stored, or an error; an error is a line that names the object. A gc deletes nothing that it
would not have deleted anyway.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas3fs.encryption.sealing import HEADER_BYTES, SEALED_PIECE_BYTES
from cas3fs.entries.bodies import encode_body
from cas3fs.entries.kinds import PLAIN_FORMAT, VOLUME_ID, VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import Cas3fsError
from cas3fs.objectstores import ObjectStore
from tests.encrypted import unsealed
from tests.volume.conftest import Volume, view_of, write
from tests.volume.test_flipped_bits import Original, assert_right, checked, collected, is_named, tree_of, used

pytestmark = pytest.mark.encryption("encrypted")

EXAMPLES: Final = settings.default.max_examples // 5
KEYS_OF_NAMES: Final = {"keys": "the entry of its key is damaged", "keyring": "keyring"}
MEANT_FOR_NOBODY: Final = ("keys/", "keyring/", "volume")
"""What the keys of objects are found by: without it nothing can be read."""


class Attacker:
    """What somebody has who can write to the store, and has copies of others."""

    def __init__(self, original: Original, twin: Mapping[str, bytes]) -> None:
        store = original.volume.stored
        self.bodies = {info.key: store.get(info.key) for info in store.list()}
        self.twin = twin
        self.plain = {key: unsealed(store).get(key) for key in self.bodies}

    def kin(self, key: str) -> list[str]:
        """Other objects of that kind."""
        return [one for one in self.bodies if one != key and kind_of(one) == kind_of(key)]

    def of_twin(self, key: str) -> list[bytes]:
        """The object of that key in another volume that the same key opens; for packs, any."""
        if key in self.twin:
            return [self.twin[key]]
        return [body for one, body in self.twin.items() if kind_of(one) == kind_of(key)]

    def forged(self, key: str, data: st.DataObject) -> bytes:
        """Other bytes for that object."""
        body = self.bodies[key]
        ways: dict[str, Callable[[], bytes]] = {
            "alter": lambda: altered(body, data),
            "truncate": lambda: body[: data.draw(st.integers(0, len(body) - 1), "kept")],
            "extend": lambda: body + data.draw(st.sampled_from([b"\0", body[-40:], body[HEADER_BYTES:], body]), "more"),
        }
        if self.kin(key):
            ways["another of its kind"] = lambda: self.bodies[data.draw(st.sampled_from(self.kin(key)), "kin")]
        if self.of_twin(key):
            ways["of another volume"] = lambda: self.of_twin(key)[0]
        if self.plain[key] != body:
            ways["in the clear"] = lambda: self.plain[key]
            ways["the end of a piece"] = lambda: body[:HEADER_BYTES] + body[HEADER_BYTES:][SEALED_PIECE_BYTES:]
        return ways[data.draw(st.sampled_from(sorted(ways)), "way")]()


def altered(body: bytes, data: st.DataObject) -> bytes:
    start = data.draw(st.integers(0, len(body) - 1), "start")
    length = data.draw(st.integers(1, min(64, len(body) - start)), "length")
    xor = data.draw(st.integers(1, 255), "xor")
    return body[:start] + bytes(byte ^ xor for byte in body[start : start + length]) + body[start + length :]


def kind_of(key: str) -> str:
    """The folder of an object, and what follows the first dot: a release is no claim."""
    return key.partition("/")[0] + key.rpartition("/")[2].partition(".")[2]


@pytest.fixture(scope="module")
def original(encryption: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Original]:
    made = Original(tmp_path_factory.mktemp("original"))
    yield made
    made.volume.close()


@pytest.fixture(scope="module")
def attacker(original: Original, tmp_path_factory: pytest.TempPathFactory) -> Attacker:
    twin = Original(tmp_path_factory.mktemp("twin"))
    store = twin.volume.stored
    return Attacker(original, {info.key: store.get(info.key) for info in store.list()})


def replace(store: ObjectStore, key: str, body: bytes) -> None:
    store.delete_many([key])
    store.put_if_absent(key, body)


def names(key: str, error: str) -> bool:
    """Whether an error names the object, or says that the keys or the volume's entry are damaged."""
    folder = key.partition("/")[0]
    return is_named(key, error) or (KEYS_OF_NAMES.get(folder, "keyring") in error and key.startswith(MEANT_FOR_NOBODY))


def assert_right_or_closed(key: str, read: Callable[[], object]) -> None:
    """Where the keys are found by the object, reading says what is wrong with it."""
    try:
        read()
    except Cas3fsError as error:
        assert "\n" not in str(error)
        assert names(key, str(error)), error
        return
    raise AssertionError(f"{key} was forged, and the volume opened")


@pytest.mark.promise("a-forged-object-is-refused")
@pytest.mark.promise("every-block-is-verified")
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_a_forged_object_is_never_believed(
    original: Original, attacker: Attacker, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(original.keys), "object")
    forged = attacker.forged(key, data)
    if forged == attacker.bodies[key]:
        return
    volume = original.copy(tmp_path_factory.mktemp("copy") / "a")
    replace(volume.stored, key, forged)
    (first, before), (newest, now) = original.trees.items()
    try:
        if key.startswith(MEANT_FOR_NOBODY):
            for host in ("new", "here"):
                assert_right_or_closed(key, lambda host=host: used(volume, host))
            return
        is_whole = assert_right(key, lambda: tree_of(view_of(volume, newest, "v1")), now)
        is_whole &= assert_right(key, lambda: tree_of(view_of(volume, first, "v2")), before)
        there = set(volume_keys(volume))
        try:
            result = checked(volume)
            assert result.status == 4 or is_whole
            collected(volume)
        except Cas3fsError as error:
            assert is_named(key, str(error)), error
        assert there - set(volume_keys(volume)) <= {key}
        for host in ("new", "there", "here"):
            assert_right(key, lambda host=host: used(volume, host), now)
    finally:
        volume.close()


def volume_keys(volume: Volume) -> list[str]:
    """The names of the objects without which data would be missing."""
    found = [info.key for info in volume.stored.list()]
    return [key for key in found if key.startswith(("packs/", "pages/", "snapshots/", "damaged/"))]


@pytest.mark.parametrize(
    "changes",
    [
        {"fenced": False},
        {"uuid": UUID(int=1)},
        {"compression": "none"},
        {"chunker": "fixed"},
        {"pack_size": 1 << 20},
        {"block_size": 4096},
        {"cipher": "chacha20-poly1305"},
        {"cipher": None, "format": PLAIN_FORMAT},
    ],
    ids=str,
)
def test_a_changed_entry_of_the_volume_opens_nothing(
    original: Original, tmp_path: Path, changes: dict[str, object]
) -> None:
    volume = original.copy(tmp_path / "a")
    entry = Shelf(volume.stored).load(VolumeEntry, VOLUME_ID).changed(**changes)
    replace(volume.stored, entry.key, encode_body(entry, b""))
    (first, _), (newest, _) = original.trees.items()
    before = volume_keys(volume)
    attempts: list[Callable[[], object]] = [
        lambda: tree_of(view_of(volume, newest, "v1")),
        lambda: tree_of(view_of(volume, first, "v2")),
        lambda: used(volume, "new"),
        lambda: used(volume, "here"),
        lambda: collected(volume),
    ]
    try:
        for attempt in attempts:
            with pytest.raises(Cas3fsError) as raised:
                attempt()
            assert "\n" not in str(raised.value)
        assert volume_keys(volume) == before
    finally:
        volume.close()


def test_the_entry_of_another_volume_is_named(original: Original, attacker: Attacker, tmp_path: Path) -> None:
    volume = original.copy(tmp_path / "a")
    replace(volume.stored, VOLUME_ID, attacker.twin[VOLUME_ID])
    try:
        for host in ("new", "here"):
            with pytest.raises(Cas3fsError, match="object `volume` was replaced"):
                used(volume, host)
    finally:
        volume.close()


class Branches:
    """A volume that went on twice from one state: two stores, with other objects of the same names."""

    def __init__(self, original: Original, root: Path) -> None:
        self.root = root
        self.objects: list[dict[str, bytes]] = []
        self.trees = []
        for number in range(2):
            volume = original.copy(root / "branch")
            try:
                opened = volume.open("here", take_over=True)
                write(opened, "of this branch", f"{number} " * (3000 + number))
                opened.finish()
                self.trees.append(tree_of(opened))
                opened.close()
                self.objects.append({info.key: volume.stored.get(info.key) for info in volume.stored.list()})
            finally:
                volume.close()
            (root / "branch").rename(root / str(number))

    @property
    def common(self) -> list[str]:
        """The names that both have, of different objects."""
        one, other = self.objects
        return sorted(key for key in one.keys() & other.keys() if one[key] != other[key])


@pytest.fixture(scope="module")
def branches(original: Original, tmp_path_factory: pytest.TempPathFactory) -> Branches:
    return Branches(original, tmp_path_factory.mktemp("branches"))


def test_branches_have_objects_of_the_same_names(branches: Branches) -> None:
    assert {key.partition("/")[0] for key in branches.common} >= {"epochs", "pages", "snapshots"}


@pytest.mark.promise("every-block-is-verified")
@settings(max_examples=EXAMPLES // 2, deadline=None)
@given(data=st.data())
def test_objects_of_an_earlier_state_show_a_whole_state_or_an_error(
    original: Original, branches: Branches, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Who rolls a store back, lets a machine write, and puts objects of before in their places, mixes no two states."""
    mixed = data.draw(st.sets(st.sampled_from(branches.common), min_size=1), "objects of the other branch")
    place = tmp_path_factory.mktemp("copy") / "branch"
    shutil.copytree(branches.root / "0", place)
    volume = Volume(place, place / "v")
    volume.made = original.volume.made
    for key in mixed:
        replace(volume.stored, key, branches.objects[1][key])
    try:
        for read in (lambda: tree_of(view_of(volume, volume.archive.ids()[-1])), lambda: used(volume, "new")):
            try:
                tree = read()
            except Cas3fsError as error:
                assert "\n" not in str(error)
                continue
            readable = {name: one for name, one in tree.items() if not isinstance(one[3], str)}
            assert any(readable.items() <= whole.items() and tree.keys() == whole.keys() for whole in branches.trees)
    finally:
        volume.close()
