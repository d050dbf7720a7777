# SPDX-License-Identifier: GPL-3.0-or-later
"""While the store is asked for something, nobody reads the index: what programs change meanwhile would pile up in its
log, as nothing of it can be taken over into the index before the reader is done."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cas3fs.maintenance.plans import GcSettings
from cas3fs.objectstores.base import ObjectStore
from cas3fs.objectstores.wrappers.wrapper import Operation, Result, StoreWrapper
from tests.maintenance.rig import KIB, noise
from tests.maintenance.ward import INODE, Ward, codes, flip, held_pack, make, pack_of, pack_of_f0


class Asked(StoreWrapper):
    """At each request a program changes something, and it is seen how much of the log cannot be taken over."""

    ward: Ward | None = None
    """None: not looked at."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.piled_up: list[int] = []
        """In pages."""
        self._one = threading.Lock()

    def around(self, operation: Operation, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        if self.ward is not None:
            with self._one:
                self.ward.fs.setxattr(self.ward.inode("f5"), b"user.churn", os.urandom(3000))
                self.ward.fs.commit()
                with closing(sqlite3.connect(self.ward.folder / "index.sqlite")) as connection:
                    _, in_log, taken_over = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self.piled_up.append(in_log - taken_over)
        return request()


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    made = make(tmp_path / "ward", wrap=Asked)
    yield made
    made.close()


@contextmanager
def looked_at(ward: Ward) -> Iterator[list[int]]:
    assert isinstance(ward.store, Asked)
    ward.store.ward = ward
    yield ward.store.piled_up
    ward.store.ward = None


@pytest.mark.promise("looking-costs-what-there-is")
def test_a_check_that_reads_all_data_back_keeps_nobody_from_taking_over_the_log(ward: Ward) -> None:
    held_pack(ward)
    for number in range(3):
        ward.write(f"g{number}", noise(50 + number, 40 * KIB))
        ward.publish()
    ward.inner.delete_many([f"packs/{pack_of_f0(ward)}"])
    flip(ward, f"packs/{pack_of(ward, INODE.format('g1'))}")
    with looked_at(ward) as piled_up:
        found = ward.check(verify_data=True)
    assert {"pack-missing", "block-damaged"} <= codes(found)
    assert len(piled_up) > 10
    assert set(piled_up) == {0}


@pytest.mark.promise("looking-costs-what-there-is")
def test_nor_does_a_gc_that_rewrites_packs(ward: Ward) -> None:
    for number in range(4):
        ward.write(f"g{number}", noise(50 + number, 90 * KIB))
    ward.fs.store_all()
    for number in range(3):
        ward.remove(f"g{number}")
    for snapshot in list(ward.snapshots):
        ward.drop_snapshot(snapshot)
    ward.newest = None
    ward.publish()
    with looked_at(ward) as piled_up:
        result = ward.gc(GcSettings(min_live=0.9, grace_s=0))
    assert result.rewritten_packs
    assert len(piled_up) > 3
    assert set(piled_up) == {0}
