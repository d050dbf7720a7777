# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of a volume in its store: opened by each of their secrets, changed without a moment in which none opens."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from blake3 import blake3

from cas3fs.config import SecretSettings
from cas3fs.encryption.ciphers import AES_256_GCM
from cas3fs.encryption.secret import LEAST_MEMORY_KIB, Argon2Parameters, ExportedRoot, KeyFile, Passphrase, RecoveryKey
from cas3fs.entries.bodies import encode_body
from cas3fs.entries.kinds import ENCRYPTED_FORMAT, KeyEntry, KeyringEntry, VolumeEntry
from cas3fs.entries.shelf import Shelf, digest_of
from cas3fs.errors import KeyringDamaged, KeysError, SecretWrong, StoreUnreachable, UsageError
from cas3fs.objectstores import Body
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.volume.key_reader import Unlocked
from cas3fs.volume.keys import UnlockedVolume, VolumeKeyStore
from cas3fs.volume.secret_source import text_secret

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


@pytest.mark.promise("a-change-of-keys-leaves-a-way-in")
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


@pytest.mark.promise("a-change-of-keys-leaves-a-way-in")
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


# --- hostile entries


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[Argon2Parameters]:
    """The costs of every Argon2id from now on, none of which is paid."""
    paid: list[Argon2Parameters] = []

    def derive(passphrase: Passphrase, salt: bytes, parameters: Argon2Parameters) -> bytes:
        paid.append(parameters)
        return blake3(passphrase.reveal() + salt).digest()

    for module in ("key_entries", "secret"):
        monkeypatch.setattr(f"cas3fs.encryption.{module}.argon2id", derive)
    monkeypatch.setattr("cas3fs.volume.key_reader.argon2id", derive)
    return paid


RIGHT, WRONG = Passphrase.of("correct horse"), Passphrase.of("incorrect horse")


@pytest.fixture
def by_passphrase(derivations: list[Argon2Parameters], keys: VolumeKeyStore) -> Unlocked:
    """A volume with a single key, a passphrase."""
    made = keys.create(RIGHT, "", "label", CHEAP)
    derivations.clear()
    return made


def flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def spoiled(store: DyingStore, entry: KeyEntry) -> None:
    """The object of the entry, with a bit changed."""
    body = store.get(entry.key)
    store.delete_many([entry.key])
    store.put_if_absent(entry.key, body[:40] + flipped(body[40:]))


def replaced(**values: object) -> Callable[[DyingStore, KeyEntry], None]:
    def replace(store: DyingStore, entry: KeyEntry) -> None:
        store.delete_many([entry.key])
        Shelf(store).save(entry.changed(**values))

    return replace


def cut_off(store: DyingStore, entry: KeyEntry) -> None:
    body = store.get(entry.key)
    store.delete_many([entry.key])
    store.put_if_absent(entry.key, body[: len(body) // 2])


HUGE = {"memory_kib": 2**31, "iterations": 2**31, "lanes": 2**31}
FAULTS: dict[str, Callable[[DyingStore, KeyEntry], None]] = {
    "none": lambda store, entry: None,
    "a changed bit": spoiled,
    "cut off": cut_off,
    "another salt": lambda store, entry: replaced(salt=flipped(entry.salt))(store, entry),
    "another commitment": lambda store, entry: replaced(commitment=flipped(entry.commitment))(store, entry),
    "another root": lambda store, entry: replaced(sealed=flipped(entry.sealed))(store, entry),
    "no costs": replaced(argon2={}),
    "other costs": replaced(argon2={"memory_kib": 1}),
    "huge costs": replaced(argon2=HUGE),
    "no cost at all": replaced(argon2={"memory_kib": 8, "iterations": 1, "lanes": 1}),
    "an unknown kind": replaced(method="eye-scan"),
}


@pytest.mark.promise("a-wrong-passphrase-and-a-damaged-key-look-alike")
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_passphrase_is_not_to_be_seen(
    store: DyingStore, keys: VolumeKeyStore, by_passphrase: Unlocked, derivations: list[Argon2Parameters], fault: str
) -> None:
    assert by_passphrase.entry is not None
    FAULTS[fault](store, by_passphrase.entry)
    for secret in (WRONG,) if fault == "none" else (WRONG, RIGHT):
        derivations.clear()
        with pytest.raises(SecretWrong) as caught:
            keys.unlock(secret)
        assert str(caught.value) == (
            "the passphrase does not open memory://: it is wrong, or the entry of its key is damaged, or the object "
            "`volume` was replaced"
        )
        assert len(derivations) == 1
        assert derivations[0].is_acceptable


def crowded(store: DyingStore, keys: VolumeKeyStore, entry: KeyEntry, count: int, **values: object) -> None:
    """Add so many copies of an entry, which open nothing, all before it in listings."""
    for number in range(count):
        Shelf(store).save(entry.changed(id=f"0{number:031d}", **values))


@pytest.mark.promise("a-wrong-passphrase-and-a-damaged-key-look-alike")
@pytest.mark.parametrize("values", [{}, {"argon2": HUGE}, {"method": "eye-scan"}], ids=["copies", "huge", "unknown"])
def test_a_thousand_entries_cost_no_more_than_32(
    store: DyingStore,
    keys: VolumeKeyStore,
    by_passphrase: Unlocked,
    derivations: list[Argon2Parameters],
    *,
    values: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert by_passphrase.entry is not None
    crowded(store, keys, by_passphrase.entry, 1000, **values)
    read: list[str] = []
    real = store.get_within
    monkeypatch.setattr(store, "get_within", lambda key, limit: read.append(key) or real(key, limit))
    with pytest.raises(SecretWrong, match="there are 1,001 entries, of which 32 were tried"):
        keys.unlock(RIGHT)
    assert len(derivations) == len(read) == 32
    assert all(one.is_acceptable for one in derivations)
    read.clear()
    assert len(keys.shown(by_passphrase)) <= 32
    assert len(read) == 32


def test_the_entry_that_opened_before_is_tried_first(
    store: DyingStore, keys: VolumeKeyStore, by_passphrase: Unlocked, derivations: list[Argon2Parameters]
) -> None:
    assert by_passphrase.entry is not None
    crowded(store, keys, by_passphrase.entry, 1000)
    assert keys.unlock(RIGHT, prefer=by_passphrase.entry.id).root == by_passphrase.root
    assert derivations == [CHEAP]
    assert KeyEntry.folder == "keys"


def test_an_entry_that_takes_too_much_memory_does_not_hide_another(
    store: DyingStore, keys: VolumeKeyStore, made: Unlocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = keys.add(made.root, RIGHT, "", CHEAP)
    large = {"memory_kib": 1 << 20, "iterations": 1, "lanes": 1}
    crowded(store, keys, small, 1, argon2=large)
    monkeypatch.setattr("cas3fs.encryption.secret._available_kib", lambda _: 2 * LEAST_MEMORY_KIB)
    assert keys.unlock(RIGHT).root == made.root
    with pytest.raises(KeysError, match="takes 1024 MiB of memory"):
        keys.unlock(WRONG)


@pytest.mark.promise("a-change-of-keys-leaves-a-way-in")
def test_entries_that_anybody_could_have_made_are_no_way_in(
    store: DyingStore, keys: VolumeKeyStore, made: Unlocked
) -> None:
    assert made.entry is not None
    crowded(store, keys, made.entry, 2)
    shown = {one.id: one.is_foreign for one in keys.shown(made)}
    assert [shown.pop(made.entry.id), *shown.values()] == [False, True, True]
    with pytest.raises(UsageError, match="last key"):
        keys.remove(made, made.entry.id)
    keys.remove(made, f"0{0:031d}")
    assert len(keys.entry_ids()) == 2


# --- the root is replaced


@pytest.mark.promise("a-change-of-keys-leaves-a-way-in")
def test_after_a_replacement_that_was_cut_off_the_newer_root_is_opened() -> None:
    """Whichever of the two entries of a secret the listing has first."""
    for _ in range(8):
        store = DyingStore()
        keys = key_store(store)
        made = keys.create(FIRST, "", "label", CHEAP)
        store.left = 2  # the keyring and the first entry
        with pytest.raises(StoreUnreachable):
            keys.replace_root(made, [(FIRST, ""), (SECOND, "")])
        store.left = 1 << 30
        opened = keys.unlock(FIRST)
        assert opened.root != made.root
        with pytest.raises(KeysError, match="was cut off"):
            keys.rotate(made)
        with pytest.raises(KeysError, match="was cut off"):
            keys.replace_root(made, [(FIRST, "")])
        done = keys.replace_root(opened, [(FIRST, "")])
        assert keys.unlock(FIRST).root == done.root
        assert len(keys.entry_ids()) == 1
        assert len(list(store.list("keyring/"))) == 1


@pytest.mark.promise("a-change-of-keys-leaves-a-way-in")
def test_a_rotation_during_a_replacement_is_not_lost(
    store: DyingStore, keys: VolumeKeyStore, made: Unlocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = keys._add

    def add_after_rotation(*arguments: Any) -> KeyEntry:
        keys._save_keyring(made.root, made.keyring.rotated(datetime.now(UTC)), made.sequence + 1)
        return real(*arguments)

    monkeypatch.setattr(keys, "_add", add_after_rotation)
    with pytest.raises(KeysError, match="at the same time"):
        keys.replace_root(made, [(FIRST, "")])
    opened = keys.unlock(FIRST)
    assert (opened.root, opened.keyring.current.number) == (made.root, 2)
    assert len(keys.entry_ids()) == 1


def test_an_export_opens_what_has_no_keys(store: DyingStore, keys: VolumeKeyStore, made: Unlocked) -> None:
    store.delete_many([one.key for one in store.list("keys/")])
    opened = keys.unlock(ExportedRoot(made.root))
    assert (opened.keyring, opened.entry) == (made.keyring, None)
    with pytest.raises(UsageError, match="no key that can be changed"):
        keys.change(opened, SECOND)
    keys.add(opened.root, SECOND, "")
    assert keys.unlock(SECOND).root == made.root
    with pytest.raises(SecretWrong, match="that of another volume"):
        keys.unlock(ExportedRoot(bytes(32)))


def test_a_recovery_key_with_a_typing_error_is_suspected(keys: VolumeKeyStore, made: Unlocked) -> None:
    printed = RecoveryKey.random().printable()
    wrong = text_secret((("A" if printed[0] != "A" else "B") + printed[1:]).encode())
    with pytest.raises(SecretWrong, match="looks like a recovery key, of which a letter is mistyped"):
        keys.unlock(wrong)


def test_a_process_that_knows_a_replaced_root_stores_no_keyring_under_it(
    store: DyingStore, keys: VolumeKeyStore, made: Unlocked
) -> None:
    """Old secrets and exports would open it."""
    known = keys.rotate(made)
    keys.replace_root(known, [(SECOND, "")], CHEAP)
    rings = [one.key for one in Shelf(store).list_entries(KeyringEntry)]
    with pytest.raises(KeysError, match="rotate --root"):
        keys.rotate(known)
    with pytest.raises(KeyringDamaged, match="rotate --root` has replaced it since the volume was opened"):
        keys.drop_generations(known, [1])
    assert [one.key for one in Shelf(store).list_entries(KeyringEntry)] == rings
