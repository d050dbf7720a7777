# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of an encrypted volume in its store: created, opened, and changed.

What is in the store: ``volume``, which names the cipher; ``keys/<random>``, one entry for each secret that opens the
volume, with the root sealed; and ``keyring/<number>-<fingerprint of the root>``, all keys, sealed with the root.
Nothing of it is ever overwritten: a change is a new object, and what it replaces is deleted only when the new one was
read back and opened. So at any instant there is a way in, and where a process may die:

- while a volume is made: before ``volume`` is there, which comes last, there is none; the rest is found by nobody;
- while an entry is replaced: both open the volume;
- while the root is replaced: the new keyring is there first, then entries under the new root, one by one. The old ones,
  which are deleted last, open the older keyring, which still opens everything that was written so far.

Everything here is thread-safe as long as two processes do not remove the last two entries at once: see `remove`.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from cas3fs.config import SecretSettings
from cas3fs.encryption.ciphers import NONCE_BYTES, SealBroken, SealingKey, derive
from cas3fs.encryption.key_entries import METHODS, MOST_KEY_ENTRIES, SealedRoot, open_root, seal_root
from cas3fs.encryption.keyring import (
    Keyring,
    ObjectKeys,
    SealedKeyring,
    new_root,
    open_keyring,
    root_fingerprint,
    seal_keyring,
)
from cas3fs.encryption.secret import USUAL_PARAMETERS, Argon2Parameters, KmsDataKey, Passphrase, Secret
from cas3fs.entries.kinds import KeyEntry, KeyringEntry, VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import EntryError, KeyringDamaged, ObjectExists, ObjectMissing, SecretWrong, UsageError
from cas3fs.objectstores import ObjectStore
from cas3fs.volume.secret_source import KmsName, read_secret

if TYPE_CHECKING:
    from cas3fs.objectstores.kms import KmsKey

_NOTE: Final = "cas3fs v2 note of a key entry"
_NOTE_BYTES: Final = 64
"""Notes are padded to a multiple of it."""
_KEY_PREFIX: Final = "key"
"""Both ``keys/`` and ``keyring/`` begin with it: one listing shows all."""


class Unlocked(NamedTuple):
    """What a secret gives access to."""

    root: bytes
    keyring: Keyring
    sequence: int
    """The number of the keyring."""
    entry: KeyEntry
    """The key entry that was opened."""


class ShownKey(NamedTuple):
    """A way to open the volume, as it may be shown."""

    id: str
    method: str
    created: datetime
    note: str
    kms_key: str | None
    is_current: bool
    """Whether it is the one that was used now."""


class VolumeKeyStore:
    """The key entries and keyrings of one volume.

    Args:
        store: the volume's store, as it is stored.
        volume: the volume's entry, with a cipher.
        digest: BLAKE3 of the entry's object: keys are bound to it.
    """

    def __init__(self, store: ObjectStore, volume: VolumeEntry, digest: str) -> None:
        assert volume.cipher is not None
        self._shelf = Shelf(store)
        self._volume = volume
        self._cipher = volume.cipher
        self._bound = bytes.fromhex(digest)
        self._uuid = volume.uuid.bytes

    # Opening

    def unlock(self, secret: Secret | KmsName, prefer: str = "") -> Unlocked:
        """Open the volume.

        Args:
            secret: what opens it.
            prefer: the id of the entry to be tried first.

        Raises:
            SecretWrong: it opens no entry.
            KeyringDamaged: the keyring is missing, or was changed.
            StoreError: the store failed.
        """
        names = [info.key for info in self._shelf.store.list(_KEY_PREFIX)]
        entries = [name.removeprefix(KeyEntry.prefix()) for name in names if name.startswith(KeyEntry.prefix())]
        entries.sort(key=lambda one: one != prefer)
        for entry_id in entries[:MOST_KEY_ENTRIES]:
            entry = self._load_entry(entry_id)
            root = None if entry is None else self._open_entry(entry, secret)
            if entry is not None and root is not None:
                keyring, sequence = self._open_keyring(root, names)
                return Unlocked(root, keyring, sequence, entry)
        raise SecretWrong(_wrong(self._shelf.store.url, secret, bool(entries)))

    def object_keys(self, keyring: Keyring) -> ObjectKeys:
        """What seals and opens the volume's objects."""
        return ObjectKeys(keyring, self._uuid, self._cipher)

    def renewed(self, unlocked: Unlocked) -> Unlocked:
        """The same with the newest keyring under its root."""
        names = [info.key for info in self._shelf.store.list(KeyringEntry.prefix())]
        keyring, sequence = self._open_keyring(unlocked.root, names)
        return unlocked._replace(keyring=keyring, sequence=sequence)

    def fingerprint(self, root: bytes) -> str:
        """What tells this volume from another that somebody put in its place."""
        return root_fingerprint(root, self._uuid)

    def _load_entry(self, entry_id: str) -> KeyEntry | None:
        with suppress(EntryError, ObjectMissing):
            return self._shelf.load(KeyEntry, entry_id)
        return None

    def _open_entry(self, entry: KeyEntry, secret: Secret | KmsName) -> bytes | None:
        """The root in an entry, if the secret opens it."""
        if isinstance(secret, KmsName):
            if entry.kms_key != secret.arn:
                return None
            secret = KmsDataKey(_kms(secret.arn).decrypt(entry.kms_data_key, str(self._volume.uuid)))
        if not _may_open(entry, secret):
            return None
        return open_root(_sealed_root(entry), secret, self._cipher, self._bound_to(entry.id))

    def _bound_to(self, entry_id: str) -> bytes:
        return self._bound + entry_id.encode()

    def _open_keyring(self, root: bytes, names: Iterable[str], at_least: int = 0) -> tuple[Keyring, int]:
        """The newest keyring under a root, and its number; one that the listing lacks is found by its name."""
        fingerprint = self.fingerprint(root)
        numbers = (_sequence_of(name, fingerprint) for name in names)
        newest = max((number for number in numbers if number is not None), default=at_least)
        while self._shelf.exists(KeyringEntry, KeyringEntry.id_of(newest + 1, fingerprint)):
            newest += 1
        if not newest:
            raise KeyringDamaged(f"{self._shelf.store.url} lacks the keyring that its key entries open")
        key = KeyringEntry.id_of(newest, fingerprint)
        try:
            entry = self._shelf.load(KeyringEntry, key)
        except (EntryError, ObjectMissing) as error:
            raise KeyringDamaged(f"the keyring of {self._shelf.store.url} cannot be read: {error}") from error
        sealed = SealedKeyring(entry.salt, entry.commitment, entry.sealed)
        try:
            return open_keyring(sealed, root, self._cipher, self._bound_to(key)), newest
        except KeyringDamaged as error:
            raise KeyringDamaged(f"{self._shelf.store.url}: {error}") from error

    # Changing

    def create(self, secret: Secret | KmsName, note: str, label: str, parameters: Argon2Parameters) -> Unlocked:
        """Store the keys of a new volume, before its entry is stored.

        Raises:
            SecretWrong: KMS refused.
            StoreError: the store failed.
        """
        root = new_root()
        keyring = Keyring.new(datetime.now(UTC), label)
        self._save_keyring(root, keyring, 1)
        return Unlocked(root, keyring, 1, self.add(root, secret, note, parameters))

    def add(
        self, root: bytes, secret: Secret | KmsName, note: str, parameters: Argon2Parameters = USUAL_PARAMETERS
    ) -> KeyEntry:
        """Store one more way to open the volume; it was read back and opened when this returns.

        Raises:
            SecretWrong: KMS refused.
            StoreError: the store failed, or did not give back what was stored.
        """
        entry = self._sealed_entry(root, secret, note, parameters)
        self._shelf.save(entry)
        stored = self._load_entry(entry.id)
        if stored is None or self._open_entry(stored, secret) != root:
            raise KeyringDamaged(
                f"{self._shelf.store.url} does not give back the key entry {entry.key} that was just stored: nothing "
                "else was changed"
            )
        return stored

    def _sealed_entry(self, root: bytes, secret: Secret | KmsName, note: str, parameters: Argon2Parameters) -> KeyEntry:
        entry_id = KeyEntry.new_id()
        kms_key, kms_data_key = None, b""
        if isinstance(secret, KmsName):
            made = _kms(secret.arn).make(str(self._volume.uuid))
            kms_key, kms_data_key, secret = secret.arn, made.encrypted, KmsDataKey(made.plain)
        sealed = seal_root(root, secret, self._cipher, self._bound_to(entry_id), parameters)
        return KeyEntry(
            id=entry_id,
            method=sealed.method,
            created=datetime.now(UTC),
            root=self.fingerprint(root),
            salt=sealed.salt,
            argon2={} if sealed.parameters is None else attrs.asdict(sealed.parameters),
            kms_key=kms_key,
            kms_data_key=kms_data_key,
            commitment=sealed.commitment,
            sealed=sealed.sealed,
            note=self._seal_note(root, entry_id, note),
        )

    def rotate(self, unlocked: Unlocked, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Unlocked:
        """Store a keyring with one more generation; from now on it seals what is written.

        Another process may do the same at the same time: then this begins anew, after it.

        Raises:
            StoreError: the store failed.
        """
        while True:
            keyring = unlocked.keyring.rotated(now())
            try:
                self._save_keyring(unlocked.root, keyring, unlocked.sequence + 1)
            except ObjectExists:
                unlocked = self.renewed(unlocked)
                continue
            return self.renewed(unlocked)

    def drop_generations(self, unlocked: Unlocked, numbers: Sequence[int]) -> Unlocked:
        """Store a keyring without old generations, which no object is sealed with any more."""
        while True:
            try:
                self._save_keyring(unlocked.root, unlocked.keyring.without(numbers), unlocked.sequence + 1)
            except ObjectExists:
                unlocked = self.renewed(unlocked)
                continue
            return self.renewed(unlocked)

    def replace_root(self, unlocked: Unlocked, kept: Sequence[tuple[Secret | KmsName, str]]) -> Unlocked:
        """Store everything under a new root, with a new generation, and remove what opens the old root.

        Args:
            unlocked: the volume, opened.
            kept: the secrets that are to open it, each with its note; at least one.

        Raises:
            SecretWrong, StoreError: as `add`.
        """
        if not kept:
            raise UsageError("no secret was given that would open the volume")
        old = [one.id for one in self.entries()]
        root = new_root()
        self._save_keyring(root, unlocked.keyring.rotated(datetime.now(UTC)), unlocked.sequence + 1)
        entries = [self.add(root, secret, note) for secret, note in kept]
        keyring, sequence = self._open_keyring(root, [], unlocked.sequence + 1)
        self._shelf.store.delete_many([KeyEntry.key_of(one) for one in old])
        self._delete_keyrings(self.fingerprint(unlocked.root))
        return Unlocked(root, keyring, sequence, entries[0])

    def remove(self, unlocked: Unlocked, entry_id: str) -> None:
        """Remove a way to open the volume.

        Two processes that remove the last two ways at the same time, each another one, could leave none; the listing
        after the removal shows that, and the way in that this process has is stored again.

        Raises:
            UsageError: there is no such way, or no other one.
            StoreError: the store failed.
        """
        entries = {one.id for one in self.entries()}
        if entry_id not in entries:
            raise UsageError(f"the volume has no key {entry_id}; `cas3fs key list` shows all")
        if len(entries) == 1:
            raise UsageError(f"{entry_id} is the last key that opens the volume: add another first")
        self._shelf.store.delete_many([KeyEntry.key_of(entry_id)])
        if not self.entries() and unlocked.entry.id != entry_id:
            with suppress(ObjectExists):
                self._shelf.save(unlocked.entry)

    def entries(self) -> list[KeyEntry]:
        """All key entries that can be read, ascending by the time of their creation."""
        ids = [one.id for one in self._shelf.list_entries(KeyEntry)]
        found = [entry for entry in map(self._load_entry, ids) if entry is not None]
        return sorted(found, key=lambda entry: (entry.created, entry.id))

    def shown(self, unlocked: Unlocked) -> list[ShownKey]:
        """All ways to open the volume."""
        return [
            ShownKey(
                one.id,
                one.method,
                one.created,
                self._open_note(unlocked.root, one),
                one.kms_key,
                one.id == unlocked.entry.id,
            )
            for one in self.entries()
        ]

    def _save_keyring(self, root: bytes, keyring: Keyring, sequence: int) -> None:
        key = KeyringEntry.id_of(sequence, self.fingerprint(root))
        sealed = seal_keyring(keyring, root, self._cipher, self._bound_to(key))
        self._shelf.save(
            KeyringEntry(
                id=key,
                sequence=sequence,
                created=datetime.now(UTC),
                salt=sealed.salt,
                commitment=sealed.commitment,
                sealed=sealed.sealed,
            )
        )

    def _delete_keyrings(self, fingerprint: str) -> None:
        names = [one.key for one in self._shelf.list_entries(KeyringEntry)]
        self._shelf.store.delete_many([name for name in names if _sequence_of(name, fingerprint) is not None])

    # Notes

    def _seal_note(self, root: bytes, entry_id: str, note: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._note_key(root, entry_id).seal(nonce, _padded(note.encode()))

    def _open_note(self, root: bytes, entry: KeyEntry) -> str:
        nonce, sealed = entry.note[:NONCE_BYTES], entry.note[NONCE_BYTES:]
        try:
            return self._note_key(root, entry.id).open(nonce, sealed).decode().rstrip()
        except (SealBroken, ValueError):
            return ""

    def _note_key(self, root: bytes, entry_id: str) -> SealingKey:
        return SealingKey(self._cipher, derive(_NOTE, root, entry_id.encode()))


def _sealed_root(entry: KeyEntry) -> SealedRoot:
    parameters = None
    with suppress(TypeError):
        parameters = Argon2Parameters(**entry.argon2) if entry.argon2 else None
    return SealedRoot(entry.method, entry.salt, parameters, entry.commitment, entry.sealed)


def _may_open(entry: KeyEntry, secret: Secret) -> bool:
    return entry.method == METHODS[type(secret)]


def _sequence_of(name: str, fingerprint: str) -> int | None:
    """The number of the keyring in that object, if it is one under that root."""
    number, _, root = name.removeprefix(KeyringEntry.prefix()).partition("-")
    is_keyring = name.startswith(KeyringEntry.prefix()) and root == fingerprint and number.isascii()
    return int(number) if is_keyring and number.isdigit() else None


def _kms(arn: str) -> "KmsKey":
    from cas3fs.objectstores.kms import KmsKey

    return KmsKey(arn)


def _wrong(url: str, secret: Secret | KmsName, has_entries: bool) -> str:
    if not has_entries:
        return f"{url} is encrypted, and has no key that opens it: its keys/ were deleted"
    if isinstance(secret, KmsName):
        return f"{url} has no key entry of {secret.arn}"
    if isinstance(secret, Passphrase):
        return f"the passphrase does not open {url}: it is wrong, or the entry of its key is damaged"
    return f"the key does not open {url}: it is wrong, or the entry of its key is damaged"


class UnlockedVolume:
    """An encrypted volume that was opened in this process; thread-safe.

    The root is remembered with the secrets of the process: a verb that opens the volume again needs no Argon2id.

    Args:
        keys: the key entries and keyrings in the store.
        secrets: where the secret comes from.
        url: of the volume.
    """

    def __init__(self, keys: VolumeKeyStore, secrets: SecretSettings, url: str) -> None:
        self.keys = keys
        known: Unlocked | None = secrets.read.get(url)
        found = keys.unlock(read_secret(secrets, f"passphrase of {url}")) if known is None else keys.renewed(known)
        self.unlocked = secrets.read[url] = found

    @property
    def object_keys(self) -> ObjectKeys:
        """What seals and opens the objects."""
        return self.keys.object_keys(self.unlocked.keyring)

    @property
    def label(self) -> str:
        """The volume's label."""
        return self.unlocked.keyring.label

    def renew(self) -> ObjectKeys:
        """Read the keyring again: another process has added a generation."""
        self.unlocked = self.keys.renewed(self.unlocked)
        return self.object_keys


def _padded(note: bytes) -> bytes:
    return note.ljust(-(-len(note) // _NOTE_BYTES) * _NOTE_BYTES)
