# SPDX-License-Identifier: GPL-3.0-or-later
"""No key ever seals two different texts with one nonce, whatever fails, is repeated, killed, copied or forked."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.blocks.packs import PackBuilder
from cas3fs.blockstore.pack_store import PackStore
from cas3fs.encryption.ciphers import AES_256_GCM, SealingKey
from cas3fs.errors import Cas3fsError
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.objectstores.wrappers import RetryPolicy
from cas3fs.objectstores.wrappers.sealed import SealedStore
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStore, faulty_stores
from cas3fs.testing.sqlite_faults import sqlite_faults
from cas3fs.values import BlockHash
from tests.crash.crash_round import Crashed, CrashRound, PreviousMount
from tests.encrypted import KEYS
from tests.encryption.recorder import recording, sealed_twice
from tests.maintenance.memory_volume import MemoryVolume, make_garbage
from tests.model.volume_model import VolumeModel

pytestmark = [pytest.mark.encryption("encrypted"), pytest.mark.usefixtures("encryption")]
STEPS = 60


class RecordedRound(CrashRound):
    """A round whose mounts record what they seal."""

    def module(self, armed: tuple[str, ...]) -> list[str]:
        return ["tests.encryption.recorder", str(self.folder / "sealed"), *super().module(armed)]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "sealed"


def store_pack(store: SealedStore, plain: bytes) -> None:
    builder = PackBuilder(store.name_content, pads=store.pads)
    builder.add(BlockHash(store.hash_content(plain)), b"\0" + plain, len(plain))
    packs, pack = PackStore(store), builder.finish()
    packs.put(pack, packs.new_name(pack, 1))


def test_a_pair_that_seals_two_texts_is_noticed(record: Path) -> None:
    with recording(record):
        for text in (b"one", b"one", b"two"):
            SealingKey(AES_256_GCM, bytes(32)).seal(bytes(12), text)
    assert len(sealed_twice(record)) == 1


@pytest.mark.promise("a-key-never-seals-two-things-alike")
@pytest.mark.lasts(200, long_s=1200)
@pytest.mark.parametrize("seed", [1000, 1001])
def test_a_volume_that_lives_through_everything_never_does(
    record: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failures of store and databases, retries, kills, take-overs, restored stores, copies that are used further."""
    quick = RetryPolicy(deadline_s=0.3, base_delay_s=0.01, max_delay_s=0.05)
    monkeypatch.setattr("cas3fs.objectstores.urls.RetryPolicy", lambda: quick)
    (tmp_path / "model").mkdir()
    with recording(record), faulty_stores() as stores, sqlite_faults() as sqlite:
        model = VolumeModel(tmp_path / "model", seed, stores, sqlite)
        try:
            for _ in range(STEPS):
                model.step()
        finally:
            stores.faults.clear()
            model.volume.close()
    assert sealed_twice(record) == []


@pytest.mark.lasts(200, long_s=1200)
@pytest.mark.promise("synced-data-survives-a-crash", "the-store-restores-the-newest-snapshot")
def test_a_killed_mount_never_does(need_fuse: None, workspace: Path) -> None:
    made = RecordedRound(workspace, seed=1)
    try:
        made.make_volume(PreviousMount.SAME_MACHINE)
        with pytest.raises(Crashed):
            made.run(("kill", "pack-put-after:2"))
        made.check()
    finally:
        made.clean_up()
    assert sealed_twice(workspace / "sealed") == []


@pytest.mark.promise("a-key-never-seals-two-things-alike")
@pytest.mark.parametrize("kind", [FaultKind.APPLIED_THEN_ERROR, FaultKind.PUT_FORGOTTEN, FaultKind.RESET])
def test_a_gc_that_fails_and_is_repeated_never_does(record: Path, tmp_path: Path, kind: FaultKind) -> None:
    with recording(record):
        volume = MemoryVolume(tmp_path / "volume", wrap=FaultyStore)
        make_garbage(volume)
        assert isinstance(volume.wrapped, FaultyStore)
        for times in range(1, 5):
            with volume.wrapped.faults.on(kind, operations=["put"], times=times), suppress(Cas3fsError):
                volume.gc()
            with suppress(Cas3fsError):  # what the store forgot is lost
                volume.gc()
        volume.close()
    assert sealed_twice(record) == []


@pytest.mark.promise("every-block-is-verified")
@given(texts=st.lists(st.binary(min_size=1, max_size=9), min_size=2, max_size=6))
def test_packs_never_do_even_if_random_bytes_recur(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes]
) -> None:
    """As in two copies of a virtual machine whose random numbers go on from one state."""
    record = tmp_path_factory.mktemp("record") / "sealed"
    with pytest.MonkeyPatch.context() as patch, recording(record):
        patch.setattr(secrets, "token_bytes", lambda count=32: b"r" * count)
        for text in texts:
            store_pack(SealedStore(MemoryStore(), KEYS), text)
    assert sealed_twice(record) == []


@pytest.mark.promise("a-key-never-seals-two-things-alike")
def test_forked_processes_never_do(record: Path) -> None:
    def work(number: int) -> None:
        store = SealedStore(MemoryStore(), KEYS)
        for key in ("pages/00000001-0000000001", "snapshots/00000001-0000000001", "epochs/00000002"):
            store.put_if_absent(key, b"%d" % number * 70_000)
        store_pack(store, b"%d" % number * 1000)

    with recording(record):
        work(0)
        children = [in_child(lambda number=number: work(number)) for number in (1, 2)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert sealed_twice(record) == []
    assert len(record.read_text().splitlines()) == 3 * (3 * 2 + 1)


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; returns its id."""
    if child := os.fork():
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)
