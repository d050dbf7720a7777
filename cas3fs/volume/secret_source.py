# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the secret that opens a volume, from wherever the user keeps it.

The order: what the command line names (a file with the passphrase, a key file, a key of KMS), the environment (the same
three, then ``CAS3FS_PASSPHRASE_COMMAND``, then ``CAS3FS_PASSPHRASE``), the terminal. A variable that is empty counts as
not set. A secret is read once in a process: a verb that opens the volume twice does not ask twice.

``CAS3FS_PASSPHRASE`` is taken out of the environment when it is read, or passed over, so that no program that this
process starts inherits it. What the kernel shows of the environment at the start of this process stays; that is why
`forbid_core_dumps` comes first, which hides it from other processes of the user.
"""

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Final

import attrs

from cas3fs.config import (
    KEY_FILE_VARIABLE,
    KMS_KEY_VARIABLE,
    PASSPHRASE_COMMAND_VARIABLE,
    PASSPHRASE_FILE_VARIABLE,
    PASSPHRASE_VARIABLE,
    SecretSettings,
)
from cas3fs.encryption.secret import (
    LARGEST_KEY_FILE_BYTES,
    ExportedRoot,
    KeyFile,
    Passphrase,
    RecoveryKey,
    Secret,
    forbid_core_dumps,
)
from cas3fs.errors import SecretMissing, UsageError

_WAYS: Final = (
    "--passphrase-file, --key-file or --kms-key, or set CAS3FS_PASSPHRASE_COMMAND, CAS3FS_PASSPHRASE_FILE or "
    "CAS3FS_KEY_FILE"
)
_READ: Final = "secret"


@attrs.frozen
class KmsName:
    """The name of a key of AWS KMS, whose use is the secret."""

    arn: str


def read_secret(
    settings: SecretSettings, question: str, environment: MutableMapping[str, str] = os.environ
) -> Secret | KmsName:
    """The secret.

    Args:
        settings: what the user said about it.
        question: what is asked at a terminal.
        environment: the environment variables, from which a passphrase is removed.

    Raises:
        SecretMissing: none was given, and nobody can be asked.
        UsageError: a file cannot be read, or is no secret; the command failed.
    """
    if _READ not in settings.read:
        forbid_core_dumps()
        settings.read[_READ] = _read_secret(settings, question, environment)
    found: Secret | KmsName = settings.read[_READ]
    return found


def _read_secret(settings: SecretSettings, question: str, environment: MutableMapping[str, str]) -> Secret | KmsName:
    in_environment = environment.pop(PASSPHRASE_VARIABLE, "")
    given = [one for one in (settings.passphrase_file, settings.key_file, settings.kms_key) if one is not None]
    if len(given) > 1:
        raise UsageError("--passphrase-file, --key-file and --kms-key exclude each other")
    if settings.passphrase_file is not None:
        return text_secret(_content_of(settings.passphrase_file))
    if settings.key_file is not None:
        return KeyFile.of(_content_of(settings.key_file))
    if settings.kms_key is not None:
        return KmsName(settings.kms_key)
    for variable, read in _ENVIRONMENT.items():
        if value := environment.get(variable):
            return read(value)
    if in_environment:
        return text_secret(os.fsencode(in_environment))
    if settings.ask is None:
        raise SecretMissing(f"the volume is encrypted, and there is no terminal to ask at: give {_WAYS}")
    return text_secret(settings.ask(question).encode(errors="surrogateescape"))


def read_new_secret(
    settings: SecretSettings, question: str, environment: MutableMapping[str, str] = os.environ
) -> Secret | KmsName:
    """As `read_secret`, for a secret that did not open anything before: at a terminal it is asked for twice.

    Raises:
        UsageError: it is an exported key, which is the root of a volume already.
        others as of `read_secret`.
    """
    found = read_secret(attrs.evolve(settings, ask=settings.ask_new), question, environment)
    if isinstance(found, ExportedRoot):
        raise UsageError("an exported key opens its own volume by itself, and cannot be a new key")
    return found


def text_secret(content: bytes) -> Secret:
    """The secret in a text: a recovery key or an exported key where it is one, else a passphrase.

    Raises:
        UsageError: it is empty, or not UTF-8.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise UsageError("the passphrase is not UTF-8; a file with any bytes is for --key-file") from None
    return RecoveryKey.parse(text) or ExportedRoot.parse(text) or Passphrase.of(text)


def _content_of(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(LARGEST_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _output_of(command: str) -> Secret:
    try:
        done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        why = f"exit status {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise UsageError(f"the command in {PASSPHRASE_COMMAND_VARIABLE} failed: {why}") from None
    return text_secret(done.stdout)


_ENVIRONMENT: Final[Mapping[str, Callable[[str], Secret | KmsName]]] = {
    PASSPHRASE_FILE_VARIABLE: lambda value: text_secret(_content_of(Path(value))),
    KEY_FILE_VARIABLE: lambda value: KeyFile.of(_content_of(Path(value))),
    KMS_KEY_VARIABLE: KmsName,
    PASSPHRASE_COMMAND_VARIABLE: _output_of,
}
