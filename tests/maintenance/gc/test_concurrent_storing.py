# SPDX-License-Identifier: GPL-3.0-or-later
"""gc while a store job runs whose packs are in the store, and not referenced by a file yet."""

import random
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cas3fs.objectstores.base import Body, ObjectStore
from cas3fs.objectstores.memory import MemoryStore
from tests.filesystem.gated import GatedStore
from tests.filesystem.usage import until
from tests.maintenance.memory_volume import KIB, MemoryVolume


class SecondPackWaits(GatedStore):
    """Holds back the PUT of the second pack."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.gate.clear()
        self.packs = 0
        self._lock = threading.Lock()

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        if key.startswith("packs/"):
            with self._lock:
                self.packs += 1
                waits = self.packs == 2
            if waits:
                self.waiting.release()
                self.gate.wait()
        self.inner.put_if_absent(key, body, metadata)


@pytest.mark.promise("gc-decides-again-when-it-deletes")
def test_packs_of_a_running_store_job_stay_and_are_not_stored_again(tmp_path: Path) -> None:
    store = SecondPackWaits(MemoryStore())
    volume = MemoryVolume(tmp_path / "machine", store.inner, wrap=lambda _: store)
    volume.publish()
    data = random.Random(1).randbytes(100 * KIB)
    storing = threading.Thread(target=volume.fs.store_all)

    def one_is_recorded() -> bool:
        with volume.fs.index_transaction() as index:
            return len(list(index.blocks.packs())) == 1

    def write_meanwhile(progress: Mapping[str, Any]) -> None:
        if progress["what"] == "merging":
            volume.write("f", data)
            storing.start()
            assert store.waiting.acquire(timeout=30)
            until(one_is_recorded)
        elif (
            progress["what"] == "publishing" and storing.ident is not None
        ):  # unreferenced blocks have been dropped by then
            store.gate.set()

    volume.gc(report=write_meanwhile)
    storing.join(30)
    assert volume.read("f") == data
    assert store.packs == len(volume.packs()) == 2
    volume.close()
