# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of a volume in its store: opened by each of their secrets, changed without a moment in which none opens."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

import pytest

from cas3fs.config import SecretSettings
from cas3fs.encryption.ciphers import AES_256_GCM
from cas3fs.encryption.secret import LEAST_MEMORY_KIB, Argon2Parameters, KeyFile, Passphrase, RecoveryKey
from cas3fs.entries.bodies import encode_body
from cas3fs.entries.kinds import ENCRYPTED_FORMAT, KeyEntry, KeyringEntry, VolumeEntry
from cas3fs.entries.shelf import digest_of
from cas3fs.errors import KeyringDamaged, SecretWrong, StoreUnreachable, UsageError
from cas3fs.objectstores import Body
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.volume.keys import Unlocked, UnlockedVolume, VolumeKeyStore

CHEAP = Argon2Parameters(LEAST_MEMORY_KIB, 1)
FIRST, SECOND, THIRD = (KeyFile.of(bytes([number]) * 32) for number in (1, 2, 3))
VOLUME = VolumeEntry(
    uuid=UUID(int=1),
    format=ENCRYPTED_FORMAT,
    created=datetime(2026, 1, 1, tzinfo=UTC),
    chunker="fixed",
    block_size=4096,
    pack_size=1 << 20,
    compression="none",
    cipher=AES_256_GCM,
)


class DyingStore(MemoryStore):
    """A store that can be reached for so many more changes."""

    left = 1 << 30

    def _count(self) -> None:
        if self.left <= 0:
            raise StoreUnreachable("it is gone")
        self.left -= 1

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        self._count()
        super().put_if_absent(key, body, metadata)

    def delete_many(self, keys: object) -> None:
        for key in list(keys):  # type: ignore[call-overload]
            self._count()
            super().delete_many([key])


def key_store(store: MemoryStore, volume: VolumeEntry = VOLUME) -> VolumeKeyStore:
    return VolumeKeyStore(store, volume, digest_of(encode_body(volume, b"")))


@pytest.fixture
def store() -> DyingStore:
    return DyingStore()


@pytest.fixture
def keys(store: DyingStore) -> VolumeKeyStore:
    return key_store(store)


@pytest.fixture
def made(keys: VolumeKeyStore) -> Unlocked:
    return keys.create(FIRST, "first", "label", CHEAP)


def test_each_secret_opens_the_same_volume(keys: VolumeKeyStore, made: Unlocked) -> None:
    printed = RecoveryKey.random()
    for secret in (Passphrase.of("correct horse"), SECOND, printed):
        keys.add(made.root, secret, "another", CHEAP)
    for secret in (FIRST, SECOND, printed, Passphrase.of("correct horse")):
        found = keys.unlock(secret)
        assert (found.root, found.keyring) == (made.root, made.keyring)
    assert found.keyring.label == "label"


def test_a_wrong_secret_is_one_clear_line(keys: VolumeKeyStore, made: Unlocked) -> None:
    keys.add(made.root, Passphrase.of("correct horse"), "", CHEAP)
    with pytest.raises(SecretWrong, match=r"^the passphrase does not open memory://: it is wrong, or"):
        keys.unlock(Passphrase.of("incorrect horse"))
    with pytest.raises(SecretWrong, match=r"^the key does not open"):
        keys.unlock(SECOND)


def test_keys_that_were_deleted_are_missed_by_name(store: DyingStore, keys: VolumeKeyStore, made: Unlocked) -> None:
    store.delete_many([made.entry.key])
    with pytest.raises(SecretWrong, match="keys/ were deleted"):
        keys.unlock(FIRST)


@pytest.mark.parametrize("field", ["chunker", "pack_size", "fenced", "compression"])
def test_keys_are_bound_to_the_volume_entry(store: DyingStore, made: Unlocked, field: str) -> None:
    others = {"chunker": "fastcdc", "pack_size": 2 << 20, "fenced": False, "compression": "zstd:3"}
    changed = VOLUME.changed(**{field: others[field]})
    with pytest.raises(SecretWrong):
        key_store(store, changed).unlock(FIRST)


def test_a_damaged_entry_does_not_hide_another(store: DyingStore, keys: VolumeKeyStore, made: Unlocked) -> None:
    keys.add(made.root, SECOND, "")
    body = bytearray(store.get(made.entry.key))
    body[len(body) // 2] ^= 1
    store.delete_many([made.entry.key])
    store.put_if_absent(made.entry.key, bytes(body))
    assert keys.unlock(SECOND).root == made.root
    with pytest.raises(SecretWrong):
        keys.unlock(FIRST)


def test_a_keyring_that_is_missing_or_was_changed_is_said(
    store: DyingStore, keys: VolumeKeyStore, made: Unlocked
) -> None:
    key = KeyringEntry.key_of(KeyringEntry.id_of(1, keys.fingerprint(made.root)))
    entry = keys._shelf.load(KeyringEntry, key.removeprefix("keyring/"))
    store.delete_many([key])
    with pytest.raises(KeyringDamaged, match="lacks the keyring"):
        keys.unlock(FIRST)
    keys._shelf.save(entry.changed(sealed=entry.sealed[:-1] + bytes([entry.sealed[-1] ^ 1])))
    with pytest.raises(KeyringDamaged, match="was changed"):
        keys.unlock(FIRST)


def test_a_rotation_adds_a_generation_for_what_is_new(keys: VolumeKeyStore, made: Unlocked) -> None:
    rotated = keys.rotate(made)
    assert [one.number for one in rotated.keyring.generations] == [1, 2]
    assert keys.unlock(FIRST).keyring == rotated.keyring
    assert keys.rotate(made).keyring.current.number == 3  # which did not know of the first rotation
    dropped = keys.drop_generations(keys.unlock(FIRST), [1, 2])
    assert [one.number for one in dropped.keyring.generations] == [3]


def test_a_rotation_that_the_listing_lacks_is_found(
    store: DyingStore, keys: VolumeKeyStore, made: Unlocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(store.list("key"))
    keys.rotate(made)
    monkeypatch.setattr(store, "list", lambda prefix="", start_after="": iter(before))
    assert keys.unlock(FIRST).keyring.current.number == 2


def test_the_last_key_cannot_be_removed(keys: VolumeKeyStore, made: Unlocked) -> None:
    with pytest.raises(UsageError, match="last key"):
        keys.remove(made, made.entry.id)
    second = keys.add(made.root, SECOND, "")
    with pytest.raises(UsageError, match="no key"):
        keys.remove(made, "0" * 32)
    keys.remove(made, made.entry.id)
    assert [one.id for one in keys.entries()] == [second.id]
    with pytest.raises(SecretWrong):
        keys.unlock(FIRST)


def test_notes_are_secret(store: DyingStore, keys: VolumeKeyStore, made: Unlocked) -> None:
    keys.add(made.root, SECOND, "the laptop of Ms. Example")
    assert {one.note for one in keys.shown(made)} == {"first", "the laptop of Ms. Example"}
    assert [one.is_current for one in keys.shown(made)] == [True, False]
    for info in store.list("keys/"):
        assert b"Example" not in store.get(info.key)
        assert store.head(info.key).size == store.head(made.entry.key).size


def test_a_new_root_leaves_only_the_secrets_that_were_shown_again(keys: VolumeKeyStore, made: Unlocked) -> None:
    keys.add(made.root, SECOND, "")
    new = keys.replace_root(made, [(THIRD, "third"), (SECOND, "second")])
    assert new.root != made.root
    assert new.keyring.generations[0] == made.keyring.current
    assert new.keyring.current.number == 2
    assert keys.unlock(THIRD).keyring == keys.unlock(SECOND).keyring == new.keyring
    with pytest.raises(SecretWrong):
        keys.unlock(FIRST)


CHANGES: dict[str, Callable[[VolumeKeyStore, Unlocked], object]] = {
    "add": lambda keys, made: keys.add(made.root, THIRD, ""),
    "remove": lambda keys, made: keys.remove(made, made.entry.id),
    "rotate": lambda keys, made: keys.rotate(made),
    "drop": lambda keys, made: keys.drop_generations(made, [1]),
    "replace root": lambda keys, made: keys.replace_root(made, [(SECOND, ""), (THIRD, "")]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_that_was_cut_off_leaves_a_way_in(change: Callable[[VolumeKeyStore, Unlocked], object]) -> None:
    for changes in range(12):
        store = DyingStore()
        keys = key_store(store)
        made = keys.create(FIRST, "", "label", CHEAP)
        keys.add(made.root, SECOND, "")
        store.left = changes
        try:
            change(keys, made)
            is_done = True
        except StoreUnreachable:
            is_done = False
        store.left = 1 << 30
        opened = keys.unlock(SECOND)
        assert made.keyring.current in opened.keyring.generations
        keys.rotate(opened)
        if is_done:
            return
    pytest.fail("the change never ended")


def test_one_process_opens_a_volume_twice_with_one_derivation(
    keys: VolumeKeyStore, made: Unlocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    keys.add(made.root, Passphrase.of("correct horse"), "", CHEAP)
    secrets = SecretSettings(ask=lambda question: asked.append(question) or "correct horse")
    first = UnlockedVolume(keys, secrets, "memory://")
    monkeypatch.setattr("cas3fs.encryption.key_entries.argon2id", lambda *_: pytest.fail("derived once more"))
    assert UnlockedVolume(keys, secrets, "memory://").unlocked.root == first.unlocked.root == made.root
    assert asked == ["passphrase of memory://"]
    keys.rotate(made)
    assert first.renew().generation == 2


def test_a_remembered_root_that_was_replaced_is_asked_for_again(keys: VolumeKeyStore, made: Unlocked) -> None:
    keys.add(made.root, Passphrase.of("correct horse"), "", CHEAP)
    secrets = SecretSettings(ask=lambda _: "correct horse")
    UnlockedVolume(keys, secrets, "memory://")
    replaced = keys.replace_root(made, [(Passphrase.of("correct horse"), "")])
    assert UnlockedVolume(keys, secrets, "memory://").unlocked.root == replaced.root


def test_more_entries_than_anyone_has_are_not_tried(keys: VolumeKeyStore, made: Unlocked) -> None:
    for number in range(40):
        keys._shelf.save(made.entry.changed(id=f"0{number:031d}"))
    with pytest.raises(SecretWrong):
        keys.unlock(SECOND)
    assert keys.unlock(FIRST, prefer=made.entry.id).root == made.root
    assert KeyEntry.folder == "keys"
