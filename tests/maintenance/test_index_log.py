# SPDX-License-Identifier: GPL-3.0-or-later
"""gc and fsck do not read the index while they wait for the store: a reader keeps the index's log from being
checkpointed, so the changes of programs would pile up in it."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.objectstores.base import ObjectStore
from cas3fs.objectstores.wrappers.wrapper import RequestKind, Result, StoreWrapper
from tests.maintenance.damaged_volume import (
    INODE,
    DamagedVolume,
    codes,
    flip_byte,
    held_pack,
    make_volume,
    pack_of,
    pack_of_f0,
)
from tests.maintenance.memory_volume import KIB, noise


class LogWatchingStore(StoreWrapper):
    """Changes a file at each request, and measures how much of the log cannot be checkpointed."""

    damaged: DamagedVolume | None = None
    """None while it does not measure."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.stuck_pages: list[int] = []
        """In pages."""
        self._one = threading.Lock()

    def around(self, kind: RequestKind, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        if self.damaged is not None:
            with self._one:
                self.damaged.fs.setxattr(self.damaged.inode("f5"), b"user.churn", os.urandom(3000))
                self.damaged.fs.commit()
                with closing(sqlite3.connect(self.damaged.folder / "index.sqlite")) as connection:
                    _, in_log, taken_over = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self.stuck_pages.append(in_log - taken_over)
        return request()


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[DamagedVolume]:
    made = make_volume(tmp_path / "volume", wrap=LogWatchingStore)
    yield made
    made.close()


@contextmanager
def stuck_log_pages(damaged: DamagedVolume) -> Iterator[list[int]]:
    assert isinstance(damaged.store, LogWatchingStore)
    damaged.store.damaged = damaged
    yield damaged.store.stuck_pages
    damaged.store.damaged = None


@pytest.mark.promise("looking-costs-what-there-is")
def test_a_check_that_reads_all_data_leaves_the_log_free(damaged: DamagedVolume) -> None:
    held_pack(damaged)
    for number in range(3):
        damaged.write(f"g{number}", noise(50 + number, 40 * KIB))
        damaged.publish()
    damaged.inner.delete_many([f"packs/{pack_of_f0(damaged)}"])
    flip_byte(damaged, f"packs/{pack_of(damaged, INODE.format('g1'))}")
    with stuck_log_pages(damaged) as piled_up:
        found = damaged.check(verify_data=True)
    assert {"pack-missing", "block-damaged"} <= codes(found)
    assert len(piled_up) > 10
    assert set(piled_up) == {0}


@pytest.mark.promise("looking-costs-what-there-is")
def test_a_gc_that_rewrites_packs_leaves_the_log_free(damaged: DamagedVolume) -> None:
    for number in range(4):
        damaged.write(f"g{number}", noise(50 + number, 90 * KIB))
    damaged.fs.store_all()
    for number in range(3):
        damaged.remove(f"g{number}")
    for snapshot in list(damaged.snapshots):
        damaged.delete_snapshot(snapshot)
    damaged.newest = None
    damaged.publish()
    with stuck_log_pages(damaged) as piled_up:
        result = damaged.gc(GcSettings(min_live=0.9, grace_s=0))
    assert result.rewritten_packs
    assert len(piled_up) > 3
    assert set(piled_up) == {0}
