# SPDX-License-Identifier: GPL-3.0-or-later
"""What storing a file that was changed here and there asks of the store."""

import os
import random

from cas3fs.objectstores.base import ObjectStore
from tests.filesystem.gated import GatedStore
from tests.filesystem.machine import MIB, ROOT, Machine
from tests.filesystem.usage import content, index_of, make_file


class CountingStore(GatedStore):
    """Counts requests for bytes, and the bytes."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.requests = self.bytes = 0

    def get(self, key: str) -> bytes:
        return self._counted(super().get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._counted(super().get_range(key, start, length))

    def _counted(self, data: bytes) -> bytes:
        self.requests += 1
        self.bytes += len(data)
        return data


def test_old_bytes_beside_new_ones_are_read_once_and_neighbours_together(machine: Machine) -> None:
    data = bytearray(random.Random(1).randbytes(2 * MIB))
    fs = machine.mount()
    number = make_file(fs, 1, b"f", bytes(data)).number
    fs.store_all()
    blocks = len(index_of(fs).chunks.bounds(number, 0, len(data)))
    fs.close()
    machine.running.remove(fs)
    store = CountingStore(machine.store)
    fs = machine.mount(wrap=lambda _: store)
    handle = fs.open(number, os.O_RDWR, ROOT)
    for offset in range(0, len(data), 4000):
        fs.write(handle, offset, b"new")
        data[offset : offset + 3] = b"new"
    fs.release(handle)
    fs.store_all()
    assert store.bytes <= 1.1 * len(data)
    assert store.requests <= blocks / 8
    assert content(fs, b"f") == data
