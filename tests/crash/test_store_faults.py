# SPDX-License-Identifier: GPL-3.0-or-later
"""A store that fails in every way of `cas3fs.testing.faults`: no wrong byte, no loss, and full recovery afterwards."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cas3fs.commands.mkfs import create_volume
from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.errors import Cas3fsError
from cas3fs.filesystem import ROOT, FileSystemSettings, Owner
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.objectstores.s3 import S3Store
from cas3fs.objectstores.wrappers import RetryPolicy
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.testing.fake_s3 import FakeS3
from cas3fs.testing.faults import Fault, FaultKind
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume, open_view, open_writer
from tests.crash.crash_round import assert_none
from tests.crash.inspection import folders_of, fsck_findings
from tests.encrypted import chosen
from tests.filesystem.machine import Machine
from tests.filesystem.usage import after_a_crash, make_file, until

URL = StoreSettings("s3://bucket/volume")
QUICK = RetryPolicy(deadline_s=0.3, base_delay_s=0.01, max_delay_s=0.05)
DELAY_S = 0.05
UNDETECTABLE = {FaultKind.PUT_FORGOTTEN}
"""Data that a store loses without an error is lost."""
KINDS = [kind for kind in FaultKind if kind not in UNDETECTABLE]
OPERATIONS = ("put_object", "get_object", "head_object", "list_objects_v2", "delete_objects")


@pytest.fixture
def s3(encryption: str, monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    """The client of every store of this test, with short timeouts."""
    made = FakeS3("bucket")
    monkeypatch.setattr("cas3fs.objectstores.s3.make_client", lambda settings, session: made)
    monkeypatch.setattr("cas3fs.objectstores.urls.RetryPolicy", lambda: QUICK)
    create_volume(URL, chosen())
    return made


@pytest.fixture
def volume(s3: FakeS3, tmp_path: Path) -> Iterator[OpenVolume]:
    opened = open_writer(URL, WriterSettings(cache_size_bytes=0, memory_cache_bytes=0), folders_of(tmp_path))
    opened.start(0)
    yield opened
    opened.close()


def content(name: str) -> bytes:
    return random.Random(name).randbytes(200_000)


def write(volume: OpenVolume, name: str) -> None:
    """Write a file and sync it."""
    fs = volume.filesystem
    inode, handle = fs.create(ROOT, name.encode(), 0o644, os.O_WRONLY, Owner())
    fs.write(handle, 0, content(name))
    fs.fsync(handle)
    fs.release(handle)
    fs.forget([(inode.number, 1)])


def read(volume: OpenVolume, name: str) -> bytes:
    fs = volume.filesystem
    handle = fs.open(fs.lookup(ROOT, name.encode()).number, os.O_RDONLY, Owner())
    try:
        return bytes(fs.read(handle, 0, 1 << 20))
    finally:
        fs.release(handle)


def publish(volume: OpenVolume) -> None:
    assert volume.publisher is not None
    volume.publisher.publish(even_unchanged=True)


def gc(volume: OpenVolume) -> None:
    GcScheduler(volume).collect(GcSettings(min_live=0.9, grace_s=0), lambda _: None)


def prune(volume: OpenVolume) -> None:
    """Keep only the newest snapshot."""
    assert volume.publisher is not None
    with volume.publisher.exclusively():
        volume.publisher.pruner.prune(RetentionPolicy(last=1))


def on_another_machine(tmp_path: Path) -> OpenVolume:
    view = WriterSettings(cache_size_bytes=0, memory_cache_bytes=0, read_only=True)
    opened = open_view(URL, view, LocalFolders(tmp_path / "other", tmp_path / "other-cache"))
    opened.start(0)
    return opened


@pytest.mark.promise("only-real-answers-count", "store-faults-cost-no-data")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_store_fault_corrupts_or_loses_data(s3: FakeS3, volume: OpenVolume, tmp_path: Path, kind: FaultKind) -> None:
    write(volume, "before")
    write(volume, "removed")
    publish(volume)
    volume.filesystem.unlink(ROOT, b"removed")
    with s3.faults.on(kind, key_prefix="", delay_s=DELAY_S) as fault:
        for name in ("one", "two"):
            write(volume, name)
            for action in (publish, prune, gc):
                with suppress(Cas3fsError, OSError):
                    action(volume)
            for there in ("before", name):
                with suppress(Cas3fsError, OSError):  # files that are only in the store may fail
                    assert read(volume, there) == content(there)
    assert fault.times_triggered or kind is FaultKind.IGNORED_PRECONDITION  # only claims depend on it
    publish(volume)
    gc(volume)
    other = on_another_machine(tmp_path)
    try:
        for name in ("before", "one", "two"):
            assert read(volume, name) == read(other, name) == content(name)
    finally:
        other.close()
    volume.finish()
    volume.close()
    assert_none(fsck_findings(URL.url, folders_of(tmp_path), verify_data=True))


SEEDS = range(3)
STEPS = 30
PLACES = ("", "packs/", "pages/", "snapshots/", "epochs/")


@pytest.mark.promise("only-real-answers-count")
@pytest.mark.parametrize("seed", SEEDS)
def test_mixed_store_faults_lose_nothing(
    s3: FakeS3, volume: OpenVolume, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several faults occur at once, for some operations and some keys."""
    monkeypatch.setattr("cas3fs.filesystem.writeback.storer._FIRST_RETRY_S", 0.01)
    monkeypatch.setattr("cas3fs.filesystem.writeback.storer._LONGEST_RETRY_S", 0.05)
    dice = random.Random(seed)
    on: list[Fault] = []
    there: set[str] = set()
    log: list[str] = []

    def switch() -> None:
        if on and dice.random() < 0.5:
            s3.faults.switch_off(on.pop(dice.randrange(len(on))))
            return
        kind, place, times = dice.choice(KINDS), dice.choice(PLACES), dice.choice([None, 1, 3])
        if kind is FaultKind.HIDDEN and place in ("", "snapshots/"):
            return  # a manifest found neither by a listing nor by name is lost, and gc deletes what only it needed
        place = f"volume/{place}"
        log.append(f"{kind.name} {place} {times}")
        on.append(s3.faults.switch_on(kind, key_prefix=place, times=times, delay_s=0.002))

    def create() -> None:
        name = f"{seed}-{len(there)}-{dice.random()}"
        write(volume, name)
        there.add(name)

    def remove() -> None:
        if there:
            name = dice.choice(sorted(there))
            volume.filesystem.unlink(ROOT, name.encode())
            there.remove(name)

    def look() -> None:
        if there:
            name = dice.choice(sorted(there))
            assert read(volume, name) == content(name), log

    actions = (switch, switch, create, create, remove, look, look, publish, publish, prune, gc)
    for _ in range(STEPS):
        action = dice.choice(actions)
        log.append(getattr(action, "__name__", ""))
        with suppress(Cas3fsError, OSError):
            action(volume) if action in (publish, prune, gc) else action()  # type: ignore[call-arg]
    s3.faults.clear()
    publish(volume)
    gc(volume)
    other = on_another_machine(tmp_path)
    try:
        for name in there:
            assert read(volume, name) == read(other, name) == content(name), log
    finally:
        other.close()
    volume.finish()
    volume.close()
    assert_none(fsck_findings(URL.url, folders_of(tmp_path), verify_data=True))


LISTINGS = (FaultKind.EVENTUAL_LISTING, FaultKind.LISTING_ENDS_EARLY, FaultKind.LISTING_LACKS)


@pytest.mark.promise("only-real-answers-count")
@pytest.mark.parametrize("seed", SEEDS)
def test_mounts_with_wrong_listings_find_all_released_data(s3: FakeS3, tmp_path: Path, seed: int) -> None:
    """Two machines mount in turn, with listings that are old, incomplete, or lack the newest names."""
    dice = random.Random(seed)
    settings = WriterSettings(cache_size_bytes=0, memory_cache_bytes=0)
    there: list[str] = []
    moments = [s3.faults.moment()]
    for turn in range(4):
        kind, place = dice.choice(LISTINGS), f"volume/{dice.choice(PLACES)}"
        newest = sorted(info["Key"] for info in s3.list_objects_v2(Bucket="bucket", Prefix=place).get("Contents", ()))
        keys = newest[-1:] if kind is FaultKind.LISTING_LACKS else ()
        options = {"moment": dice.choice(moments)} if kind is FaultKind.EVENTUAL_LISTING else {}
        with s3.faults.on(kind, key_prefix=place, keys=keys, **options):
            try:
                opened = open_writer(URL, settings, folders_of(tmp_path / f"machine{turn % 2}"))
            except Cas3fsError:
                opened = None  # what cannot be log is refused
        if opened is None:
            opened = open_writer(URL, settings, folders_of(tmp_path / f"machine{turn % 2}"))
        try:
            opened.start(0)
            for name in there:
                assert read(opened, name) == content(name), f"turn {turn}: {kind.name} {place}"
            write(opened, f"{seed}-{turn}")
            there.append(f"{seed}-{turn}")
            publish(opened)
            moments.append(s3.faults.moment())
            opened.finish()
        finally:
            opened.close()
        moments.append(s3.faults.moment())
    assert_none(fsck_findings(URL.url, folders_of(tmp_path / "machine1"), verify_data=True))


@pytest.mark.promise("store-faults-cost-no-data")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "kind",
    [FaultKind.UNAVAILABLE, FaultKind.APPLIED_THEN_ERROR],
    ids=lambda kind: kind.name,
)
def test_two_failures_of_a_request_are_hidden_by_retries(
    s3: FakeS3, volume: OpenVolume, tmp_path: Path, kind: FaultKind, operation: str
) -> None:
    write(volume, "removed")
    publish(volume)
    volume.filesystem.unlink(ROOT, b"removed")
    with s3.faults.on(kind, operations=[operation], times=2):
        write(volume, "file")
        publish(volume)
        gc(volume)
        other = on_another_machine(tmp_path)
        try:
            assert read(other, "file") == read(volume, "file") == content("file")
        finally:
            other.close()


class FastClock:
    """A clock on which an hour passes in seconds, for modules that use ``time.monotonic`` only."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._start_s = time.monotonic()

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return self._start_s + (time.monotonic() - self._start_s) * self.factor


@pytest.mark.promise("storing-resumes-by-itself")
def test_an_outage_of_an_hour_loses_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, s3 = FastClock(2400), FakeS3("bucket")
    for module in ("writeback.storer", "state.staging", "operations.files", "writeback.commits"):
        monkeypatch.setattr(f"cas3fs.filesystem.{module}.time", clock)
    machine.store = S3Store("bucket", client=s3)
    fs = machine.mount(FileSystemSettings(commit_interval_s=5, settle_s=1, batch_wait_s=1))
    begin_s = clock.monotonic()
    with s3.faults.on(FaultKind.RESET) as outage:
        for number in range(20):
            make_file(fs, 1, b"%d" % number, b"%d" % number * 50_000)
            fs.commit()
        until(lambda: clock.monotonic() - begin_s > 3600 and outage.times_triggered > 10)  # it keeps trying
        outage_h = (clock.monotonic() - begin_s) / 3600
        assert after_a_crash(machine, b"7") == b"7" * 50_000
    assert outage.times_triggered < 600 * outage_h  # but not too often
    until(lambda: fs.pending().files == 0)
    for number in range(20):
        assert after_a_crash(machine, b"%d" % number) == b"%d" % number * 50_000


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "machine")
    yield made
    made.close()
