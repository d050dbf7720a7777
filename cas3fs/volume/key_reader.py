# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens an encrypted volume: finds the key entry that a secret opens, and the newest keyring under its root.

What comes from the store may be hostile: at most 32 entries are tried, each costs at most one Argon2id within our
bounds, and a wrong passphrase, a damaged entry and a malformed one cost the same and give the same text.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from cas3fs.encryption.ciphers import NONCE_BYTES, SealBroken, SealingKey, derive
from cas3fs.encryption.key_entries import METHODS, MOST_KEY_ENTRIES, SALT_BYTES, SealedRoot, open_root
from cas3fs.encryption.keyring import Keyring, ObjectKeys, SealedKeyring, open_keyring, root_fingerprint
from cas3fs.encryption.secret import (
    USUAL_PARAMETERS,
    Argon2Parameters,
    ExportedRoot,
    KmsDataKey,
    Passphrase,
    Secret,
    argon2id,
    looks_printed,
)
from cas3fs.entries.kinds import KeyEntry, KeyringEntry, VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import EntryError, KeyringDamaged, KeysError, ObjectMissing, SecretWrong
from cas3fs.objectstores import ObjectStore
from cas3fs.volume.secret_source import KmsName

if TYPE_CHECKING:
    from cas3fs.objectstores.kms import KmsKey

_NOTE: Final = "cas3fs v2 note of a key entry"
_KEY_PREFIX: Final = "key"
"""Both ``keys/`` and ``keyring/`` begin with it: one listing shows all."""


class Unlocked(NamedTuple):
    """What a secret gives access to."""

    root: bytes
    keyring: Keyring
    sequence: int
    """The number of the keyring."""
    entry: KeyEntry | None
    """The key entry that was opened; None where the root itself was given, as an export has it."""


class KeyReader:
    """The key entries and keyrings of one volume, for opening it; thread-safe.

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

    def unlock(self, secret: Secret | KmsName, prefer: str = "") -> Unlocked:
        """Open the volume.

        Args:
            secret: what opens it.
            prefer: the id of the entry to be tried first.

        Raises:
            KeysError: this machine has too little memory for an entry, and no other one opens.
            SecretWrong: it opens no entry; a wrong passphrase, a damaged entry and a malformed one take one Argon2id
                each, and give the same text.
            KeyringDamaged: the keyring is missing, or was changed.
            StoreError: the store failed.
        """
        names = [info.key for info in self._shelf.store.list(_KEY_PREFIX)]
        if isinstance(secret, ExportedRoot):
            return self._unlock_by_root(secret.reveal(), names)
        ids = [name.removeprefix(KeyEntry.prefix()) for name in names if name.startswith(KeyEntry.prefix())]
        ids.sort(key=lambda one: one != prefer)
        refusal: KeysError | None = None
        for entry in self._newest_root_first(map(self._load_entry, ids[:MOST_KEY_ENTRIES]), names):
            try:
                root = self._open_entry(entry, secret)
            except KeysError as error:  # KMS refused, or memory is too small; another entry may be better
                refusal = error
                continue
            if entry is not None and root is not None:
                keyring, sequence = self._open_keyring(root, names)
                return Unlocked(root, keyring, sequence, entry)
        raise refusal or SecretWrong(_wrong(self._shelf.store.url, secret, len(ids)))

    def _newest_root_first(self, entries: Iterable[KeyEntry | None], names: Sequence[str]) -> Iterable[KeyEntry | None]:
        """Key entries in the order in which they are tried: a replacement of the root that was cut off leaves two."""
        numbers = [number_and_root(name) for name in names if name.startswith(KeyringEntry.prefix())]
        newest = {root: number for number, root in sorted(one for one in numbers if one is not None)}
        if len(newest) < 2:
            return entries
        return sorted(entries, key=lambda entry: 0 if entry is None else -newest.get(entry.root, 0))

    def _unlock_by_root(self, root: bytes, names: Sequence[str]) -> Unlocked:
        """Open the volume by an export; whatever happened to ``keys/``."""
        fingerprint = self.fingerprint(root)
        is_listed = any(sequence_of(name, fingerprint) is not None for name in names)
        if not is_listed and not self._shelf.exists(KeyringEntry, KeyringEntry.id_of(1, fingerprint)):
            raise SecretWrong(
                f"the exported key does not open {self._shelf.store.url}: it is that of another volume, or "
                "`cas3fs key rotate --root` was run since"
            )
        keyring, sequence = self._open_keyring(root, names)
        return Unlocked(root, keyring, sequence, None)

    def object_keys(self, keyring: Keyring) -> ObjectKeys:
        """What seals and opens the volume's objects."""
        return ObjectKeys(keyring, self._uuid, self._cipher)

    def renewed(self, unlocked: Unlocked) -> Unlocked:
        """The same with the newest keyring under its root.

        Raises:
            KeyringDamaged: there is none, or it was changed.
            StoreError: the store failed.
        """
        names = [info.key for info in self._shelf.store.list(KeyringEntry.prefix())]
        keyring, sequence = self._open_keyring(unlocked.root, names)
        return unlocked._replace(keyring=keyring, sequence=sequence)

    def is_renewed(self, unlocked: Unlocked) -> bool:
        """Whether there is a newer keyring under the root; makes one LIST.

        Raises:
            StoreError: the store failed.
        """
        fingerprint = self.fingerprint(unlocked.root)
        listed = self._shelf.list_entries(KeyringEntry, start_after=f"{unlocked.sequence:08d}")
        return any((sequence_of(one.key, fingerprint) or 0) > unlocked.sequence for one in listed)

    def fingerprint(self, root: bytes) -> str:
        """What tells this volume from another that somebody put in its place."""
        return root_fingerprint(root, self._uuid)

    def _load_entry(self, entry_id: str) -> KeyEntry | None:
        with suppress(EntryError, ObjectMissing):
            return self._shelf.load(KeyEntry, entry_id)
        return None

    def _open_entry(self, entry: KeyEntry | None, secret: Secret | KmsName) -> bytes | None:
        """The root in an entry, if the secret opens it; None for an entry that cannot be read."""
        if entry is None or entry.method not in METHODS.values():
            if isinstance(secret, Passphrase):
                argon2id(secret, bytes(SALT_BYTES), USUAL_PARAMETERS)  # takes as long as a wrong passphrase
            return None
        if isinstance(secret, KmsName):
            if entry.kms_key != secret.arn:
                return None
            secret = KmsDataKey(open_kms(secret.arn).decrypt(entry.kms_data_key, str(self._volume.uuid)))
        if not _may_open(entry, secret):
            return None
        return open_root(_sealed_root(entry), secret, self._cipher, self._bound_to(entry.id))

    def _bound_to(self, entry_id: str) -> bytes:
        return self._bound + entry_id.encode()

    def _open_keyring(self, root: bytes, names: Iterable[str], at_least: int = 0) -> tuple[Keyring, int]:
        """The newest keyring under a root, and its number; one that the listing lacks is found by its name."""
        fingerprint = self.fingerprint(root)
        numbers = (sequence_of(name, fingerprint) for name in names)
        newest = max((number for number in numbers if number is not None), default=at_least)
        while self._shelf.exists(KeyringEntry, KeyringEntry.id_of(newest + 1, fingerprint)):
            newest += 1
        if not newest:
            raise KeyringDamaged(
                f"{self._shelf.store.url} lacks the keyring that its keys open: it was deleted, or `cas3fs key rotate "
                "--root` has replaced it since the volume was opened, which must be opened, or mounted, again then"
            )
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

    # Notes

    def _open_note(self, root: bytes, entry: KeyEntry) -> str | None:
        """The note; None if it was not sealed with that root for that entry."""
        nonce, sealed = entry.note[:NONCE_BYTES], entry.note[NONCE_BYTES:]
        try:
            return self._note_key(root, entry.id).open(nonce, sealed).decode().rstrip()
        except (SealBroken, ValueError):
            return None

    def _note_key(self, root: bytes, entry_id: str) -> SealingKey:
        return SealingKey(self._cipher, derive(_NOTE, root, entry_id.encode()))


def _sealed_root(entry: KeyEntry) -> SealedRoot:
    parameters = None
    with suppress(TypeError):
        parameters = Argon2Parameters(**entry.argon2) if entry.argon2 else None
    return SealedRoot(entry.method, entry.salt, parameters, entry.commitment, entry.sealed)


def _may_open(entry: KeyEntry, secret: Secret) -> bool:
    return entry.method == METHODS.get(type(secret))


def sequence_of(name: str, fingerprint: str) -> int | None:
    """The number of the keyring in that object, if it is one under that root."""
    found = number_and_root(name)
    return found[0] if found is not None and found[1] == fingerprint else None


def number_and_root(name: str) -> tuple[int, str] | None:
    """The number of the keyring in that object, and the fingerprint of its root; None if it is no keyring."""
    number, _, root = name.removeprefix(KeyringEntry.prefix()).partition("-")
    is_keyring = name.startswith(KeyringEntry.prefix()) and number.isascii() and number.isdigit()
    return (int(number), root) if is_keyring else None


def open_kms(arn: str) -> "KmsKey":
    from cas3fs.objectstores.kms import KmsKey

    return KmsKey(arn)


def _wrong(url: str, secret: Secret | KmsName, count: int) -> str:
    if not count:
        return f"{url} is encrypted, and its keys/ were deleted: only an exported key opens it"
    if isinstance(secret, KmsName):
        return f"{url} has no key entry of {secret.arn}"
    what = "passphrase" if isinstance(secret, Passphrase) else "key"
    hints = ""
    if isinstance(secret, Passphrase) and looks_printed(secret):
        hints += "; it looks like a recovery key, of which a letter is mistyped"
    if count > MOST_KEY_ENTRIES:
        hints += f"; there are {count:,} entries, of which {MOST_KEY_ENTRIES} were tried"
    return (
        f"the {what} does not open {url}: it is wrong, or the entry of its key is damaged, or the object `volume` was "
        f"replaced{hints}"
    )
