# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets: what people have, and the key material that is made of it.

Python can neither wipe nor lock memory: copies of a secret may stay in memory that was freed, and be swapped out. What
is done: secrets show nothing when printed, cannot be pickled, are in no message and no log, and `forbid_core_dumps`
keeps them out of core dumps and from other processes of the same user.
"""

import base64
import secrets
import time
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final, NoReturn, Self

import attrs
from blake3 import blake3

from cas3fs.encryption.ciphers import KEY_BYTES
from cas3fs.errors import KeysError, UsageError
from cas3fs.units import GIB, MIB

LEAST_KEY_FILE_BYTES: Final = 16
LARGEST_KEY_FILE_BYTES: Final = MIB
_CHECKSUM_BYTES: Final = 3
_GROUP: Final = 4
_PRINTED_DIGITS: Final = (KEY_BYTES + _CHECKSUM_BYTES) * 8 // 5
_BASE32: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
_RESEMBLING: Final = str.maketrans("018", "OIB")
_PR_SET_DUMPABLE: Final = 4
_MEMORY_INFO: Final = Path("/proc/meminfo")


class Secret:
    """Bytes that are never shown."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def reveal(self) -> bytes:
        """The bytes."""
        return self._content

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


class Passphrase(Secret):
    """What a person remembers: UTF-8 in normal form C, so that it does not depend on the keyboard's way to write é."""

    @classmethod
    def of(cls, text: str) -> "Passphrase":
        """The passphrase in `text`, without the end of its line.

        Raises:
            UsageError: it is empty.
        """
        text = unicodedata.normalize("NFC", text.rstrip("\r\n"))
        if not text:
            raise UsageError("the passphrase is empty")
        return cls(text.encode())


class KeyFile(Secret):
    """The bytes of a file that is hard to guess, such as 32 random bytes."""

    @classmethod
    def of(cls, content: bytes) -> "KeyFile":
        """The key in a file.

        Raises:
            UsageError: it is too short or too long to be one.
        """
        if not LEAST_KEY_FILE_BYTES <= len(content) <= LARGEST_KEY_FILE_BYTES:
            raise UsageError(
                f"a key file has from {LEAST_KEY_FILE_BYTES} bytes to 1MiB, and this one has {len(content)}; "
                "`head -c 32 /dev/urandom > FILE` makes one"
            )
        return cls(content)


class _PrintedKey(Secret):
    """32 bytes in a form to be printed and typed: 14 groups of 4 letters and digits, of which the last 5 check."""

    _checksum_context: ClassVar[str]

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The key in a text, however it is grouped and in whatever case; None if it is none."""
        digits = _printed_digits(text)
        if digits is None:
            return None
        content = base64.b32decode(digits)
        key = cls(content[:KEY_BYTES])
        return key if key._checksum() == content[KEY_BYTES:] else None

    def printable(self) -> str:
        """As it is printed."""
        digits = base64.b32encode(self.reveal() + self._checksum()).decode()
        return "-".join(digits[start : start + _GROUP] for start in range(0, len(digits), _GROUP))

    def _checksum(self) -> bytes:
        return blake3(self.reveal(), derive_key_context=self._checksum_context).digest(_CHECKSUM_BYTES)


class RecoveryKey(_PrintedKey):
    """32 random bytes, to be printed and kept."""

    _checksum_context = "cas3fs v2 checksum of a recovery key"

    @classmethod
    def random(cls) -> Self:
        """A new one."""
        return cls(secrets.token_bytes(KEY_BYTES))


class ExportedRoot(_PrintedKey):
    """A volume's root itself, as `cas3fs key export` prints it: it needs no key entry."""

    _checksum_context = "cas3fs v2 checksum of an exported root"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """As of a recovery key; the whole text of an export is read, too."""
        lines = text.split("\n") if text.startswith(EXPORT_TITLE) else [text]
        return next((found for found in map(super().parse, lines) if found is not None), None)


EXPORT_TITLE: Final = "cas3fs: exported key"
"""The text of an export begins with it."""


def looks_printed(passphrase: Passphrase) -> bool:
    """Whether a passphrase has the form of a printed key, and so probably is one with a typing error."""
    return _printed_digits(passphrase.reveal().decode()) is not None


def _printed_digits(text: str) -> str | None:
    """The digits of a printed key, without what may be between them; None where the text has another form.

    The digits 0, 1 and 8 are not used, so that they stand for the letters that they resemble.
    """
    digits = "".join(text.split()).replace("-", "").upper().translate(_RESEMBLING)
    return digits if len(digits) == _PRINTED_DIGITS and set(digits) <= _BASE32 else None


class KmsDataKey(Secret):
    """A data key that AWS KMS has decrypted."""


@attrs.frozen
class Argon2Parameters:
    """The cost of one attempt at a passphrase (RFC 9106)."""

    memory_kib: int
    iterations: int
    lanes: int = 1

    @property
    def is_acceptable(self) -> bool:
        """Whether they are within our bounds: they come from the store, and may be hostile."""
        return (
            LEAST_MEMORY_KIB <= self.memory_kib <= _LARGEST_MEMORY_KIB
            and 1 <= self.iterations <= _MOST_ITERATIONS
            and 1 <= self.lanes <= _MOST_LANES
            and self.memory_kib * self.iterations <= _MOST_WORK_KIB
        )


LEAST_MEMORY_KIB: Final = 64 * MIB // 1024
_LARGEST_MEMORY_KIB: Final = GIB // 1024
_MOST_ITERATIONS: Final = 10
_MOST_LANES: Final = 8
_MOST_WORK_KIB: Final = 4 * GIB // 1024
USUAL_PARAMETERS: Final = Argon2Parameters(LEAST_MEMORY_KIB * 2, 3)
"""Take a third of a second of a processor of 2024."""
_WANTED_S: Final = 0.5
_USUAL_MEMORY_KIB: Final = (256 * 1024, 128 * 1024, LEAST_MEMORY_KIB)


def argon2id(passphrase: Passphrase, salt: bytes, parameters: Argon2Parameters) -> bytes:
    """32 bytes of key material from a passphrase.

    Raises:
        KeysError: this machine has too little memory; the kernel would rather kill a process than refuse it.
    """
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    derivation = Argon2id(
        salt=salt,
        length=KEY_BYTES,
        iterations=parameters.iterations,
        lanes=parameters.lanes,
        memory_cost=parameters.memory_kib,
    )
    try:
        if 0 < _available_kib(_MEMORY_INFO) < parameters.memory_kib:
            raise MemoryError
        return derivation.derive(passphrase.reveal())
    except MemoryError:
        raise KeysError(
            f"to try a passphrase takes {parameters.memory_kib // 1024} MiB of memory, which this machine has not: "
            "free some, or use another kind of key"
        ) from None


def calibrated_parameters(memory_info: Path = _MEMORY_INFO) -> Argon2Parameters:
    """Parameters with which an attempt takes this machine about half a second, and at most half of its free memory."""
    free_kib = _available_kib(memory_info)
    began_s = time.perf_counter()
    argon2id(Passphrase(b"how fast?"), bytes(16), Argon2Parameters(LEAST_MEMORY_KIB, 1))
    passes = _WANTED_S / (time.perf_counter() - began_s)  # over the least memory
    memory_kib = next(
        (kib for kib in _USUAL_MEMORY_KIB if kib <= free_kib // 2 and kib * 2 <= LEAST_MEMORY_KIB * passes),
        LEAST_MEMORY_KIB,
    )
    iterations = round(passes * LEAST_MEMORY_KIB / memory_kib)
    return Argon2Parameters(memory_kib, min(max(iterations, 1), _MOST_ITERATIONS))


def parameters_for(secret: Secret | None) -> Argon2Parameters:
    """The cost of a new key entry: calibrated to this machine for a passphrase; no other kind of secret uses it."""
    return calibrated_parameters() if isinstance(secret, Passphrase) else USUAL_PARAMETERS


def _available_kib(memory_info: Path) -> int:
    """The memory that is free or can be freed, in KiB; 0 where that is not known."""
    with suppress(OSError, ValueError, IndexError):
        for line in memory_info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1])
    return 0


def forbid_core_dumps() -> None:
    """Keep this process's memory out of core dumps, and from other processes of its user; before a secret is read."""
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
