# SPDX-License-Identifier: GPL-3.0-or-later
"""The root, sealed so that one secret opens it.

The secret gives *material*, 32 bytes or more: a passphrase by Argon2id with a random salt, everything else as it is.
From material and salt, 64 bytes are derived: a key, and a commitment, which is stored and compared before anything is
opened, since AES-GCM alone lets one ciphertext have two keys that open it. Everything else in the entry, and all bytes
of the volume's entry, are bound to the sealed root (associated data).

Whether an entry is malformed, damaged, or belongs to another passphrase: opening it takes one Argon2id and gives the
same result, None. So neither the text nor the time tells which it was.
"""

import hmac
import secrets
from collections.abc import Mapping
from typing import Final

import attrs

from cas3fs.encryption.ciphers import KEY_BYTES, NO_NONCE, SealBroken, SealingKey, derive_committed
from cas3fs.encryption.secret import (
    USUAL_PARAMETERS,
    Argon2Parameters,
    KeyFile,
    KmsDataKey,
    Passphrase,
    RecoveryKey,
    Secret,
    argon2id,
)

MOST_KEY_ENTRIES: Final = 32
"""More than that many entries for passphrases are not tried: each costs half a second."""
_CONTEXT: Final = "cas3fs v2 key entry"
SALT_BYTES: Final = 32

METHODS: Final[Mapping[type[Secret], str]] = {
    Passphrase: "passphrase",
    KeyFile: "key-file",
    RecoveryKey: "recovery",
    KmsDataKey: "kms",
}
"""What entries are called by the secret that opens them."""


@attrs.frozen
class SealedRoot:
    """A root as one key entry has it."""

    method: str
    salt: bytes
    parameters: Argon2Parameters | None
    """Of a passphrase."""
    commitment: bytes
    sealed: bytes


def seal_root(
    root: bytes, secret: Secret, cipher: str, bound: bytes, parameters: Argon2Parameters = USUAL_PARAMETERS
) -> SealedRoot:
    """Seal the root so that `secret` opens it; `bound` is the volume's entry and the entry's id."""
    salt = secrets.token_bytes(SALT_BYTES)
    method = METHODS[type(secret)]
    used = parameters if isinstance(secret, Passphrase) else None
    key, commitment = _key_and_commitment(secret, salt, used)
    sealed = SealingKey(cipher, key).seal(NO_NONCE, root, _bound(bound, method, used))
    return SealedRoot(method, salt, used, commitment, sealed)


def open_root(sealed: SealedRoot, secret: Secret, cipher: str, bound: bytes) -> bytes | None:
    """The root, or None if the secret does not open it."""
    parameters = sealed.parameters
    if isinstance(secret, Passphrase) and (parameters is None or not parameters.is_acceptable):
        argon2id(secret, bytes(SALT_BYTES), USUAL_PARAMETERS)  # takes as long as a wrong passphrase
        return None
    key, commitment = _key_and_commitment(secret, sealed.salt, parameters)
    if not hmac.compare_digest(commitment, sealed.commitment):
        return None
    try:
        root = SealingKey(cipher, key).open(NO_NONCE, sealed.sealed, _bound(bound, sealed.method, parameters))
    except SealBroken:
        return None
    return root if len(root) == KEY_BYTES else None


def _key_and_commitment(secret: Secret, salt: bytes, parameters: Argon2Parameters | None) -> tuple[bytes, bytes]:
    material = secret.reveal()
    if isinstance(secret, Passphrase):
        assert parameters is not None
        material = argon2id(secret, salt, parameters)
    return derive_committed(_CONTEXT, METHODS[type(secret)].encode(), material, salt)


def _bound(bound: bytes, method: str, parameters: Argon2Parameters | None) -> bytes:
    numbers = b"" if parameters is None else b"%d,%d,%d" % attrs.astuple(parameters)
    return b"\0".join((method.encode(), numbers, bound))
