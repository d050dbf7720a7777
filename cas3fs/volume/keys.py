# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of an encrypted volume in its store: created, opened, and changed.

What is in the store: ``volume``, which names the cipher; ``keys/<random>``, one entry for each secret that opens the
volume, with the root sealed; and ``keyring/<number>-<fingerprint of the root>``, all keys, sealed with the root.
Nothing of it is ever overwritten: a change is a new object, and what it replaces is deleted only when the new one was
read back and opened. So at any instant there is a way in, and where a process may die:

- while a volume is made: before ``volume`` is there, which comes last, there is none; the rest is found by nobody;
- while an entry is replaced: both open the volume;
- while the root is replaced: the new keyring is there first, then entries under the new root, one by one. The old ones,
  which are deleted last, open the older keyring, which still opens everything that was written so far. Who opens the
  volume by a new entry finds the old ones as *foreign*, and may remove them, or replace the root again.

A key entry is believed to be a way in if its note was sealed with the root: everything else in it could be anybody's.

Everything here is thread-safe as long as two processes do not remove the last two entries at once: see `remove`.
"""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

import attrs

from cas3fs.config import SecretSettings
from cas3fs.encryption.ciphers import NONCE_BYTES
from cas3fs.encryption.key_entries import MOST_KEY_ENTRIES, seal_root
from cas3fs.encryption.keyring import (
    Keyring,
    ObjectKeys,
    new_root,
    seal_keyring,
)
from cas3fs.encryption.secret import (
    Argon2Parameters,
    KmsDataKey,
    Secret,
    parameters_for,
)
from cas3fs.entries.kinds import KeyEntry, KeyringEntry
from cas3fs.errors import KeyringDamaged, KeysError, ObjectExists, UsageError
from cas3fs.volume.key_reader import KeyReader, Unlocked, number_and_root, open_kms, sequence_of
from cas3fs.volume.secret_source import KmsName, read_secret

_NOTE_BYTES: Final = 64
"""Notes are padded to a multiple of it."""


class ShownKey(NamedTuple):
    """A way to open the volume, as it may be shown."""

    id: str
    method: str
    created: datetime
    note: str
    kms_key: str | None
    is_current: bool
    """Whether it is the one that was used now."""
    is_foreign: bool
    """Whether it was not made with the volume's root: a replacement of the root was cut off, or it is forged."""


class VolumeKeyStore(KeyReader):
    """The key entries and keyrings of one volume, also for changing them.

    Args:
        store: the volume's store, as it is stored.
        volume: the volume's entry, with a cipher.
        digest: BLAKE3 of the entry's object: keys are bound to it.
    """

    def create(
        self, secret: Secret | KmsName, note: str, label: str, parameters: Argon2Parameters | None = None
    ) -> Unlocked:
        """Store the keys of a new volume, before its entry is stored; parameters as of `add`.

        Raises:
            SecretWrong: KMS refused.
            StoreError: the store failed.
        """
        root = new_root()
        keyring = Keyring.new(datetime.now(UTC), label)
        self._save_keyring(root, keyring, 1)
        return Unlocked(root, keyring, 1, self._add(root, secret, note, parameters))

    def add(
        self, root: bytes, secret: Secret | KmsName, note: str, parameters: Argon2Parameters | None = None
    ) -> KeyEntry:
        """Store one more way to open the volume; it was read back and opened when this returns.

        Args:
            root: the volume's.
            secret: what is to open it.
            note: what its owner calls it.
            parameters: the cost of a passphrase; None: calibrated to this machine.

        Raises:
            UsageError: the volume has as many as are ever tried.
            SecretWrong: KMS refused.
            StoreError: the store failed.
            KeyringDamaged: the store did not give back what was stored.
        """
        if len(self.entry_ids()) >= MOST_KEY_ENTRIES:
            raise UsageError(f"the volume has {MOST_KEY_ENTRIES} keys, and more are never tried: remove one first")
        return self._add(root, secret, note, parameters)

    def change(
        self,
        unlocked: Unlocked,
        secret: Secret | KmsName,
        note: str | None = None,
        parameters: Argon2Parameters | None = None,
    ) -> KeyEntry:
        """Replace the way in that was used now; it is removed when the new one was read back and opened.

        Args:
            unlocked: the volume, opened.
            secret: what is to open it.
            note: what its owner calls it; None: as before.
            parameters: as of `add`.

        Raises:
            UsageError: the volume was opened with an export.
            others as of `add`.
        """
        replaced = entry_to_change(unlocked)
        if note is None:
            note = self._open_note(unlocked.root, replaced) or ""
        made = self._add(unlocked.root, secret, note, parameters)
        self._shelf.store.delete_many([replaced.key])
        return made

    def _add(self, root: bytes, secret: Secret | KmsName, note: str, parameters: Argon2Parameters | None) -> KeyEntry:
        entry = self._sealed_entry(root, secret, note, parameters)
        self._shelf.save(entry)
        stored = self._load_entry(entry.id)
        if stored is None or self._open_entry(stored, secret) != root:
            raise KeyringDamaged(
                f"{self._shelf.store.url} does not give back the key entry {entry.key} that was just stored: nothing "
                "else was changed"
            )
        return stored

    def _sealed_entry(
        self, root: bytes, secret: Secret | KmsName, note: str, parameters: Argon2Parameters | None
    ) -> KeyEntry:
        entry_id = KeyEntry.new_id()
        kms_key, kms_data_key = None, b""
        if isinstance(secret, KmsName):
            made = open_kms(secret.arn).make(str(self._volume.uuid))
            kms_key, kms_data_key, secret = secret.arn, made.encrypted, KmsDataKey(made.plain)
        if parameters is None:
            parameters = parameters_for(secret)
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
            KeysError: a replacement of the root was cut off, or is under way, or has ended since it was opened.
            StoreError: the store failed.
        """
        self._refuse_begun_replacement(unlocked)
        return self._change_keyring(unlocked, lambda keyring: keyring.rotated(now()))

    def drop_generations(
        self, unlocked: Unlocked, numbers: Collection[int], records: Mapping[str, bytes] = {}
    ) -> Unlocked:
        """Store a keyring without old generations, which no object is sealed with any more.

        Args:
            unlocked: the volume, opened.
            numbers: the generations; the newest stays in any case.
            records: the keys of single objects that are sealed with them, by their names.

        Raises:
            KeyringDamaged: the root was replaced since the volume was opened.
            StoreError: the store failed.
        """
        return self._change_keyring(unlocked, lambda keyring: keyring.without(numbers, records))

    def _change_keyring(self, unlocked: Unlocked, change: Callable[[Keyring], Keyring]) -> Unlocked:
        """Store a changed keyring; where another process has stored one at the same time, the change of that one.

        Raises:
            KeyringDamaged: the root was replaced: no keyring is stored that old secrets would open.
        """
        while True:
            unlocked = self.renewed(unlocked)
            try:
                self._save_keyring(unlocked.root, change(unlocked.keyring), unlocked.sequence + 1)
            except ObjectExists:
                continue
            return self.renewed(unlocked)

    def forget_older(self, unlocked: Unlocked) -> None:
        """Delete the keyrings under the root that came before the one that is open: they have dropped generations."""
        names = [one.key for one in self._shelf.list_entries(KeyringEntry)]
        own = self.fingerprint(unlocked.root)
        numbers = {name: sequence_of(name, own) for name in names}
        old = [name for name, number in numbers.items() if number is not None and number < unlocked.sequence]
        self._shelf.store.delete_many(old)

    def replace_root(
        self,
        unlocked: Unlocked,
        kept: Sequence[tuple[Secret | KmsName, str]],
        parameters: Argon2Parameters | None = None,
    ) -> Unlocked:
        """Store everything under a new root, with a new generation, and remove what opens the old root.

        Args:
            unlocked: the volume, opened.
            kept: the secrets that are to open it, each with its note; at least one.
            parameters: as of `add`.

        Raises:
            KeysError: another process changes the keys at the same time, or has begun to and was cut off.
            SecretWrong, StoreError: as `add`.
        """
        if not kept:
            raise UsageError("no secret was given that would open the volume")
        self._refuse_begun_replacement(unlocked)
        old = self.entry_ids()
        root = new_root()
        self._save_keyring(root, unlocked.keyring.rotated(datetime.now(UTC)), unlocked.sequence + 1)
        entries = [self._add(root, secret, note, parameters) for secret, note in kept]
        keyring, sequence = self._open_keyring(root, [], unlocked.sequence + 1)
        if self.renewed(unlocked).sequence != unlocked.sequence:
            self._shelf.store.delete_many([one.key for one in entries])
            self._delete_keyrings(lambda fingerprint: fingerprint == self.fingerprint(root))
            raise KeysError(
                f"{self._shelf.store.url}: another process has changed the keys at the same time: try again"
            )
        self._shelf.store.delete_many([KeyEntry.key_of(one) for one in old])
        self._delete_keyrings(lambda fingerprint: fingerprint != self.fingerprint(root))
        return Unlocked(root, keyring, sequence, entries[0])

    def _refuse_begun_replacement(self, unlocked: Unlocked) -> None:
        """Raise KeysError where another root exists that is newer: its keyring may have a generation of its own."""
        own = self.fingerprint(unlocked.root)
        others = {entry.root for entry in self.entries() if entry.root != own}
        for info in self._shelf.store.list(KeyringEntry.prefix()):
            found = number_and_root(info.key)
            if found is not None and found[1] in others and found[0] > unlocked.sequence:
                raise KeysError(
                    f"{self._shelf.store.url}: a replacement of the root was cut off, or is under way: repeat "
                    "`cas3fs key rotate --root`, opening the volume with a secret that was kept"
                )

    def remove(self, unlocked: Unlocked, entry_id: str) -> None:
        """Remove a way to open the volume.

        Two processes that remove the last two ways at the same time, each another one, could leave none; the listing
        after the removal shows that, and the way in that this process has is stored again.

        Raises:
            UsageError: there is no such way, or no other one that was made with the volume's root.
            StoreError: the store failed.
        """
        if entry_id not in self.entry_ids():
            raise no_such_key(entry_id)
        known = [one.id for one in self.entries() if self._is_authentic(unlocked.root, one)]
        if not [one for one in known if one != entry_id]:
            raise UsageError(f"{entry_id} is the last key that opens the volume: add another first")
        self._shelf.store.delete_many([KeyEntry.key_of(entry_id)])
        if not self.entry_ids() and unlocked.entry is not None and unlocked.entry.id != entry_id:
            with suppress(ObjectExists):
                self._shelf.save(unlocked.entry)

    def entry_ids(self) -> list[str]:
        """The ids of all key entries, also of those that cannot be read."""
        return [one.id for one in self._shelf.list_entries(KeyEntry)]

    def entries(self) -> list[KeyEntry]:
        """The key entries that can be read, ascending by the time of their creation; as many as opening tries."""
        found = [entry for entry in map(self._load_entry, self.entry_ids()[:MOST_KEY_ENTRIES]) if entry is not None]
        return sorted(found, key=lambda entry: (entry.created, entry.id))

    def opens(self, entry_id: str, secret: Secret | KmsName, root: bytes) -> bool:
        """Whether a secret opens that way into the volume; raises as `unlock`."""
        return self._open_entry(self._load_entry(entry_id), secret) == root

    def shown(self, unlocked: Unlocked) -> list[ShownKey]:
        """The ways to open the volume."""
        return [
            ShownKey(
                one.id,
                one.method,
                one.created,
                self._open_note(unlocked.root, one) or "",
                one.kms_key,
                unlocked.entry is not None and one.id == unlocked.entry.id,
                not self._is_authentic(unlocked.root, one),
            )
            for one in self.entries()
        ]

    def _is_authentic(self, root: bytes, entry: KeyEntry) -> bool:
        return self._open_note(root, entry) is not None

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

    def _delete_keyrings(self, is_old: Callable[[str], bool]) -> None:
        """Delete the keyrings under the roots with such fingerprints."""
        names = {one.key: number_and_root(one.key) for one in self._shelf.list_entries(KeyringEntry)}
        self._shelf.store.delete_many([name for name, found in names.items() if found is not None and is_old(found[1])])

    # Notes

    def _seal_note(self, root: bytes, entry_id: str, note: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._note_key(root, entry_id).seal(nonce, _padded(note.encode(errors="replace")))


class UnlockedVolume:
    """An encrypted volume that was opened in this process; thread-safe.

    The root is remembered with the secrets: a verb that opens the volume again needs no Argon2id. Where it has been
    replaced, or another volume is at that URL now, the secret opens it once more.

    Args:
        keys: the key entries and keyrings in the store.
        secrets: where the secret comes from.
        url: of the volume.
        prefer: the id of the key entry that is tried first.
    """

    def __init__(self, keys: VolumeKeyStore, secrets: SecretSettings, url: str, prefer: str = "") -> None:
        self.keys = keys
        known: Unlocked | None = secrets.read.get(url)
        found = None
        with suppress(KeyringDamaged):
            found = None if known is None else keys.renewed(known)
        found = found or keys.unlock(read_secret(secrets, f"passphrase of {url}"), prefer)
        self.unlocked = secrets.read[url] = found

    @property
    def object_keys(self) -> ObjectKeys:
        """What seals and opens the objects."""
        return self.keys.object_keys(self.unlocked.keyring)

    @property
    def fingerprint(self) -> str:
        """That of the root."""
        return self.keys.fingerprint(self.unlocked.root)

    @property
    def entry_id(self) -> str:
        """The id of the key entry that was opened; empty where it was an export."""
        return "" if self.unlocked.entry is None else self.unlocked.entry.id

    @property
    def sequence(self) -> int:
        """The number of the keyring."""
        return self.unlocked.sequence

    @property
    def label(self) -> str:
        """The volume's label."""
        return self.unlocked.keyring.label

    def notice(self) -> ObjectKeys:
        """The same keys, or newer ones if another process has stored any."""
        return self.renew() if self.keys.is_renewed(self.unlocked) else self.object_keys

    @property
    def older(self) -> tuple[int, ...]:
        """The generations before the newest one."""
        return tuple(one.number for one in self.unlocked.keyring.generations[:-1])

    def drop(self, numbers: Collection[int], records: Mapping[str, bytes]) -> None:
        """Drop older generations; as `VolumeKeyStore.drop_generations`."""
        self.unlocked = self.keys.drop_generations(self.unlocked, numbers, records)

    def forget_older_keyrings(self) -> None:
        """Delete older keyrings; as `VolumeKeyStore.forget_older`."""
        self.keys.forget_older(self.unlocked)

    def renew(self) -> ObjectKeys:
        """Read the keyring again: another process has added a generation."""
        self.unlocked = self.keys.renewed(self.unlocked)
        return self.object_keys


def entry_to_change(unlocked: Unlocked) -> KeyEntry:
    """The way in that was used now.

    Raises:
        UsageError: the volume was opened with an export.
    """
    if unlocked.entry is None:
        raise UsageError("an exported key is no key that can be changed; `cas3fs key add` adds one")
    return unlocked.entry


def no_such_key(entry_id: str) -> UsageError:
    """The error for an id that no key has."""
    return UsageError(f"the volume has no key {entry_id}; `cas3fs key list` shows all")


def _padded(note: bytes) -> bytes:
    return note.ljust((len(note) // _NOTE_BYTES + 1) * _NOTE_BYTES)
