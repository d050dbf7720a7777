# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of a volume, and how they are sealed with its root.

The plain form is JSON, padded with spaces to a multiple of 256 bytes::

    {"generations": [{"number": 1, "key": hex, "created": time}, ...], "names_key": hex, "label": text}

Once a generation was dropped, ``"records": {name: key, ...}`` has the keys of the single objects that were sealed with
it and stay: epochs, policies and forks.

It is sealed with a key that is derived from the root and 32 random bytes, the salt. Derivation gives 64 bytes: the key,
and a *commitment*, which is stored beside the sealed bytes and compared before they are opened: with AES-GCM, one could
otherwise make bytes that two keys open. All bytes of the volume's entry are bound to it (associated data): whoever
changes that entry, such as the cipher or the chunker in it, makes the keyring unreadable.

Sub-keys, each by `derive` with a context of its own:

- of an object: `ObjectKeys.key_of` (context ``cas3fs v2 object``);
- of shared caches: `ObjectKeys.cache_key` (``cas3fs v2 shared caches``), from the newest generation;
- of the disk cache: `ObjectKeys.disk_cache_key` (``cas3fs v2 disk cache``), from the newest generation.

The key for names never changes: content that is stored again after a rotation is still recognized. It names content
only in sealed places, and in names of packs.
"""

import hmac
import json
import secrets
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final, Self

import attrs
from blake3 import blake3

from cas3fs.encryption.ciphers import KEY_BYTES, NO_NONCE, SealBroken, SealingKey, derive, derive_committed
from cas3fs.encryption.padding import pad_text
from cas3fs.encryption.sealing import SALT_BYTES, SealHeader
from cas3fs.errors import GenerationUnknown, KeyringDamaged
from cas3fs.values import Buffer

LARGEST_GENERATION: Final = 2**16 - 1
_OBJECT: Final = "cas3fs v2 object"
_KEYRING: Final = "cas3fs v2 keyring"
_SHARED_CACHES: Final = "cas3fs v2 shared caches"
_DISK_CACHE: Final = "cas3fs v2 disk cache"
_ROOT_FINGERPRINT: Final = "cas3fs v2 fingerprint of a root"
_FINGERPRINT_BYTES: Final = 16


@attrs.frozen
class Generation:
    """One generation of the key for objects."""

    number: int
    key: bytes = attrs.field(repr=False)
    created: datetime


@attrs.frozen
class Keyring:
    """The keys of a volume; `generations` ascend by number, and the last one seals what is new."""

    generations: tuple[Generation, ...]
    names_key: bytes = attrs.field(repr=False)
    label: str = ""
    """The volume's label, which is a secret too."""
    records: Mapping[str, bytes] = attrs.field(factory=dict, repr=False)
    """The keys of single objects whose generation was dropped, by the objects' names."""

    @classmethod
    def new(cls, now: datetime, label: str = "") -> Self:
        """The keys of a new volume."""
        first = Generation(1, secrets.token_bytes(KEY_BYTES), now)
        return cls((first,), secrets.token_bytes(KEY_BYTES), label)

    @property
    def current(self) -> Generation:
        """What new objects are sealed with."""
        return self.generations[-1]

    def rotated(self, now: datetime) -> Self:
        """The keyring with one more generation.

        Raises:
            GenerationUnknown: no more can be numbered.
        """
        number = self.current.number + 1
        if number > LARGEST_GENERATION:
            raise GenerationUnknown(f"a volume has at most {LARGEST_GENERATION} generations of keys")
        new = Generation(number, secrets.token_bytes(KEY_BYTES), now)
        return attrs.evolve(self, generations=(*self.generations, new))

    def without(self, numbers: Collection[int], records: Mapping[str, bytes] = {}) -> Self:
        """The keyring without old generations, which nothing is sealed with any more but `records`.

        These have keys of their own from then on, as they stay for good, under names that cannot be written again.
        """
        kept = tuple(one for one in self.generations if one.number not in numbers or one is self.current)
        return attrs.evolve(self, generations=kept, records={**self.records, **records})


@attrs.frozen
class SealedKeyring:
    """A keyring as it is stored."""

    salt: bytes
    commitment: bytes
    sealed: bytes


def new_root() -> bytes:
    """A root for a new volume."""
    return secrets.token_bytes(KEY_BYTES)


def root_fingerprint(root: bytes, uuid: bytes) -> str:
    """Hex digits that identify a root and tell nothing of it: volumes of one name are told apart by them."""
    return derive(_ROOT_FINGERPRINT, root, uuid, length=_FINGERPRINT_BYTES).hex()


def seal_keyring(keyring: Keyring, root: bytes, cipher: str, bound: bytes) -> SealedKeyring:
    """Seal a keyring; `bound` is the volume's entry, all bytes of it."""
    salt = secrets.token_bytes(SALT_BYTES)
    key, commitment = derive_committed(_KEYRING, root, salt)
    sealed = SealingKey(cipher, key).seal(NO_NONCE, _to_json(keyring), bound)
    return SealedKeyring(salt, commitment, sealed)


def open_keyring(sealed: SealedKeyring, root: bytes, cipher: str, bound: bytes) -> Keyring:
    """The keyring.

    Raises:
        KeyringDamaged: it was sealed with another root, for another volume's entry, or it was changed.
    """
    key, commitment = derive_committed(_KEYRING, root, sealed.salt)
    if not hmac.compare_digest(commitment, sealed.commitment):
        raise KeyringDamaged("the keyring was sealed with another root key")
    try:
        return _from_json(SealingKey(cipher, key).open(NO_NONCE, sealed.sealed, bound))
    except SealBroken:
        raise KeyringDamaged("the keyring, or the object `volume` to which it is bound, was changed") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise KeyringDamaged(f"the keyring cannot be read: {error!r}") from error


class ObjectKeys:
    """The keys of the objects of one volume, and the names of its content; thread-safe.

    Args:
        keyring: the volume's keys.
        uuid: of the volume, as its entry has it: a fork keeps the keys of its original.
        cipher: the volume's.
    """

    def __init__(self, keyring: Keyring, uuid: bytes, cipher: str) -> None:
        self.keyring = keyring
        self.cipher = cipher
        self._uuid = uuid
        self._by_number = {one.number: one.key for one in keyring.generations}
        self._generation = keyring.current.number.to_bytes(2, "big")

    @property
    def generation(self) -> int:
        """The generation that seals new objects."""
        return self.keyring.current.number

    def key_of(self, key: str, header: SealHeader) -> SealingKey:
        """The key of the object `key`.

        Raises:
            GenerationUnknown: the keyring lacks the header's generation.
        """
        return SealingKey(self.cipher, self.key_bytes_of(key, header))

    def key_bytes_of(self, key: str, header: SealHeader) -> bytes:
        """The bytes of that key; raises as `key_of`."""
        generation = self._by_number.get(header.generation)
        if generation is not None:
            return derive(_OBJECT, generation, self._uuid, key.encode(), header.salt)
        record = self.keyring.records.get(key)
        if record is None:
            raise GenerationUnknown(
                f"{key} is sealed with generation {header.generation} of the key, and the keyring has "
                f"{', '.join(map(str, sorted(self._by_number)))}"
            )
        return record

    def hash_content(self, data: Buffer) -> bytes:
        """The name of content, 32 bytes: keyed BLAKE3, which tells nothing to those without the key."""
        return blake3(data, key=self.keyring.names_key).digest()

    def name_content(self, data: Buffer) -> str:
        """The name of a pack with these plain bytes, 64 hex digits: 2 bytes of generation, 30 of the hash."""
        return (self._generation + self.hash_content(data)[2:]).hex()

    def cache_key(self) -> bytes:
        """The key of shared caches; from the newest generation, so that a rotation holds for them too."""
        return derive(_SHARED_CACHES, self.keyring.current.key, self._uuid)

    def disk_cache_key(self) -> bytes:
        """The key of the disk cache; from the newest generation too."""
        return self.disk_cache_keys()[0]

    def disk_cache_keys(self) -> list[bytes]:
        """What that key is and was, the newest first."""
        return [derive(_DISK_CACHE, one.key, self._uuid) for one in reversed(self.keyring.generations)]


def _to_json(keyring: Keyring) -> bytes:
    content: dict[str, Any] = {
        "generations": [
            {"number": one.number, "key": one.key.hex(), "created": one.created.isoformat()}
            for one in keyring.generations
        ],
        "names_key": keyring.names_key.hex(),
        "label": keyring.label,
    }
    if keyring.records:
        content["records"] = {name: key.hex() for name, key in keyring.records.items()}
    return pad_text(json.dumps(content).encode())


def _from_json(plain: bytes) -> Keyring:
    content: dict[str, Any] = json.loads(plain)
    generations = tuple(
        Generation(int(one["number"]), _key(one["key"]), datetime.fromisoformat(one["created"]))
        for one in content["generations"]
    )
    numbers = [one.number for one in generations]
    if not numbers or numbers != sorted(set(numbers)):
        raise ValueError("generations are missing, or not in order")
    records = {str(name): _key(key) for name, key in dict(content.get("records", {})).items()}
    return Keyring(generations, _key(content["names_key"]), str(content["label"]), records)


def _key(text: str) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        raise ValueError("a key has a wrong length")
    return key
