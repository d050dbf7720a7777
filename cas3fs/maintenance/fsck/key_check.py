# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of the key entries and keyrings of an encrypted volume, beside those that opened it.

It takes no secret. So it shows that an entry is whole and well-formed, and names a root whose keyring is there; not
that its secret opens it, nor who made it.
"""

from collections.abc import Collection
from typing import Final

from cas3fs.encryption.ciphers import KEY_BYTES, TAG_BYTES
from cas3fs.encryption.key_entries import METHODS, SALT_BYTES
from cas3fs.encryption.secret import Argon2Parameters, Passphrase
from cas3fs.entries.kinds import KeyEntry, KeyringEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import EntryError, ObjectMissing
from cas3fs.maintenance.fsck.findings import Finding

DAMAGED_KEY, DAMAGED_KEYRING = "key-damaged", "keyring-damaged"
_COMMITMENT_BYTES: Final = 32


def check_keys(shelf: Shelf) -> list[Finding]:
    """Find key entries and keyrings that cannot be used.

    Args:
        shelf: of the store as it is stored; that of a plain volume has none of these.

    Raises:
        StoreError: the store failed.
    """
    keys = [one.id for one in shelf.list_entries(KeyEntry)]  # first, as a keyring is stored before its entries
    findings: list[Finding] = []
    roots: set[str] = set()
    for ring in shelf.list_entries(KeyringEntry):
        roots.add(ring.id.partition("-")[2])
        if problem := _problem_of_keyring(shelf, ring.id):
            findings.append(Finding(DAMAGED_KEYRING, {"object": ring.key}, problem))
    damaged: dict[str, str] = {}
    whole: list[str] = []
    for key in keys:
        try:
            entry = shelf.load(KeyEntry, key)
        except ObjectMissing:
            continue  # it was removed since
        except EntryError as error:
            damaged[key] = f"it cannot be read: {error}"
            continue
        if problem := _problem_of_key(entry, roots):
            damaged[key] = problem
        else:
            whole.append(f"{entry.method} {key}")
    others = f"undamaged keys: {', '.join(whole) or 'none'}"
    findings += [
        Finding(DAMAGED_KEY, {"object": KeyEntry.key_of(key)}, f"{problem}; {others}")
        for key, problem in damaged.items()
    ]
    return findings


def _problem_of_keyring(shelf: Shelf, ring_id: str) -> str:
    """What is wrong with a keyring; empty if nothing is."""
    try:
        ring = shelf.load(KeyringEntry, ring_id)
    except ObjectMissing:
        return ""  # it was deleted since
    except EntryError as error:
        return f"it cannot be read: {error}"
    root = ring_id.partition("-")[2]
    if not root or ring_id != KeyringEntry.id_of(ring.sequence, root):
        return "its name is not that of the keyring in it"
    return _problem_of_sealed(ring, TAG_BYTES + 1)


def _problem_of_key(entry: KeyEntry, roots: Collection[str]) -> str:
    """What is wrong with a key entry; empty if nothing is."""
    if entry.method not in METHODS.values():
        return f"its kind {entry.method!r} is unknown"
    if entry.root not in roots:
        return "the volume has no keyring that it opens"
    if entry.method == METHODS[Passphrase] and not _has_bounded_cost(entry):
        return "what its passphrase costs is missing or out of bounds"
    if entry.kms_key and not entry.kms_data_key:
        return "it lacks what AWS KMS decrypts"
    return _problem_of_sealed(entry, KEY_BYTES + TAG_BYTES)


def _has_bounded_cost(entry: KeyEntry) -> bool:
    try:
        return Argon2Parameters(**entry.argon2).is_acceptable
    except TypeError:
        return False


def _problem_of_sealed(entry: KeyEntry | KeyringEntry, least_bytes: int) -> str:
    is_whole = len(entry.salt) == SALT_BYTES and len(entry.commitment) == _COMMITMENT_BYTES
    return "" if is_whole and len(entry.sealed) >= least_bytes else "a part of it has a wrong length"
