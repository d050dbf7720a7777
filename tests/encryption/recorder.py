# SPDX-License-Identifier: GPL-3.0-or-later
"""Records what every key seals with every nonce, over processes.

``python -m tests.encryption.recorder FILE MODULE ...`` runs a module, as ``python -m`` does, and appends a line to FILE
for each sealed piece: a hash of key and nonce, and one of what was sealed. A key that seals two texts with one
nonce gives both away.
"""

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest import mock

from blake3 import blake3

from cas3fs.encryption import ciphers
from cas3fs.encryption.ciphers import Aead
from cas3fs.values import Buffer

HASH_BYTES: Final = 16


class RecordingAead:
    """An AEAD that writes a line before it seals."""

    def __init__(self, inner: Aead, key: bytes, file: int) -> None:
        self._inner = inner
        self._key = key
        self._file = file
        self.decrypt = inner.decrypt
        self.decrypt_into = inner.decrypt_into

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, /) -> bytes:
        self._record(nonce, data, associated_data)
        return self._inner.encrypt(nonce, data, associated_data)

    def encrypt_into(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /) -> int:
        self._record(nonce, data, associated_data)
        return self._inner.encrypt_into(nonce, data, associated_data, buf)

    def _record(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None) -> None:
        pair = blake3(self._key + bytes(nonce)).hexdigest(HASH_BYTES)
        text = blake3(bytes(associated_data or b"")).update(data).hexdigest(HASH_BYTES)
        os.write(self._file, f"{pair} {text}\n".encode())


@contextmanager
def recording(path: Path) -> Iterator[None]:
    """Whatever is sealed within this context, also by forked processes, is recorded in that file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def recorded(make: Callable[[bytes], Aead]) -> Callable[[bytes], Aead]:
        return lambda key: RecordingAead(make(key), key, file)

    made = {name: recorded(make) for name, make in ciphers._CIPHERS.items()}
    try:
        with mock.patch.dict(ciphers._CIPHERS, made):
            yield
    finally:
        os.close(file)


def sealed_twice(path: Path) -> list[str]:
    """The pairs of key and nonce that have sealed two different texts; fails if nothing was sealed."""
    first: dict[str, str] = {}
    lines = path.read_text().splitlines()
    assert lines, "nothing was sealed"
    return [pair for pair, text in map(str.split, lines) if first.setdefault(pair, text) != text]


def main(path: Path, module: str, arguments: list[str]) -> None:
    """Run the module."""
    with recording(path):
        sys.argv[1:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
