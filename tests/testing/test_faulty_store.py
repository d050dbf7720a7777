# SPDX-License-Identifier: GPL-3.0-or-later
"""A faulty store behaves as its inner store without faults, and exactly as a fault says with one."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cas3fs.config import StoreSettings
from cas3fs.errors import (
    DeleteFailed,
    ObjectArchived,
    ObjectMissing,
    ObjectTooShort,
    StoreError,
    StoreUnreachable,
    TransientStoreError,
)
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore, RetryPolicy, open_store
from cas3fs.objectstores.directory import DirectoryStore
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.objectstores.s3 import S3Store
from cas3fs.testing.fake_s3 import FakeS3
from cas3fs.testing.faults import FaultKind, Faults
from cas3fs.testing.faulty_store import STORE_FAULTS, FaultyStore, FaultyStores
from cas3fs.testing.store_damage import (
    copy_objects,
    copy_to,
    corrupt_object,
    delete_objects,
    restore_objects,
    truncate_object,
)
from tests.contracts.objectstore import CreatesOnlyOnce, KeepsMetadata, ObjectStoreContract, RefusesNesting

KEYS = ("packs/1/a", "packs/1/b", "snapshots/1-1", "snapshots/1-2")


class TestWithoutAFault(ObjectStoreContract, CreatesOnlyOnce, RefusesNesting, KeepsMetadata):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return FaultyStore(MemoryStore())


class Case:
    """A store with a few objects, and its faults."""

    def __init__(self, store: ObjectStore, faults: Faults, without_faults: ObjectStore) -> None:
        self.store = store
        self.faults = faults
        self.without_faults = without_faults
        for key in KEYS:
            store.put_if_absent(key, key.encode() * 10)

    def listed(self, prefix: str = "") -> list[str]:
        return [info.key for info in self.store.list(prefix)]


@pytest.fixture(params=["fake S3", "memory", "directory"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    if request.param == "fake S3":
        fake = FakeS3("bucket")
        store: ObjectStore = S3Store("bucket", client=fake)  # type: ignore[arg-type]
        yield Case(store, fake.faults, store)
        return
    inner = MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path)
    with closing(FaultyStore(inner)) as lying:
        yield Case(lying, lying.faults, inner)


def test_a_stale_listing_may_have_a_prefix_and_an_earlier_moment(case: Case) -> None:
    moment = case.faults.moment()
    case.store.put_if_absent("snapshots/1-3", b"")
    case.store.delete_many(["snapshots/1-1", "packs/1/b"])
    with case.faults.on(FaultKind.EVENTUAL_LISTING, key_prefix="snapshots/", moment=moment) as fault:
        assert case.listed("snapshots/") == ["snapshots/1-1", "snapshots/1-2"]
        assert case.listed("packs/") == ["packs/1/a"]
        assert fault.times_triggered == 1
        assert case.listed() == ["packs/1/a", "snapshots/1-1", "snapshots/1-2"]
        assert case.store.get("snapshots/1-3") == b""
    assert case.listed("snapshots/") == ["snapshots/1-2", "snapshots/1-3"]


def test_a_listing_lacks_the_given_keys(case: Case) -> None:
    with case.faults.on(FaultKind.LISTING_LACKS, keys=["snapshots/1-2", "packs/1/a"], times=2) as fault:
        assert case.listed() == ["packs/1/b", "snapshots/1-1"]
        assert case.store.get("snapshots/1-2")
        assert case.listed("epochs/") == []
        assert fault.times_triggered == 1
        assert case.listed("packs/") == ["packs/1/b"]
    assert case.listed() == list(KEYS)


def test_a_hidden_object_is_neither_read_nor_listed_until_it_is_switched_off(case: Case) -> None:
    with case.faults.on(FaultKind.HIDDEN, key_prefix="packs/1/a"):
        for read in (case.store.get, case.store.head, lambda key: case.store.get_range(key, 0, 1)):
            with pytest.raises(ObjectMissing):
                read("packs/1/a")
        assert case.listed("packs/") == ["packs/1/b"]
    assert case.store.get("packs/1/a") == b"packs/1/a" * 10


def test_a_shortened_object_is_short_in_every_operation(case: Case) -> None:
    whole = b"packs/1/a" * 10
    with case.faults.on(FaultKind.SHORTENED, keys=["packs/1/a"]):
        assert case.store.get("packs/1/a") == whole[:45]
        assert case.store.get_range("packs/1/a", 40, 5) == whole[40:45]
        assert case.store.head("packs/1/a").size == 45
        assert {info.key: info.size for info in case.store.list("packs/")} == {"packs/1/a": 45, "packs/1/b": 90}
        with pytest.raises(ObjectTooShort):
            case.store.get_range("packs/1/a", 40, 6)


def test_an_archived_object_is_listed_but_cannot_be_read(case: Case) -> None:
    with case.faults.on(FaultKind.ARCHIVED, key_prefix="packs/"):
        for read in (case.store.get, lambda key: case.store.get_range(key, 0, 1)):
            with pytest.raises(ObjectArchived, match="archive"):
                read("packs/1/a")
        assert case.store.head("packs/1/a").size == 90
        assert case.listed() == list(KEYS)


def test_some_deletions_are_refused_and_the_others_are_done(case: Case) -> None:
    with case.faults.on(FaultKind.DELETION_REFUSED, keys=["packs/1/b"]):
        with pytest.raises(DeleteFailed) as caught:
            case.store.delete_many(KEYS[:3])
        assert caught.value.keys == ("packs/1/b",)
        assert case.listed() == ["packs/1/b", "snapshots/1-2"]


def test_a_forgotten_put_seems_to_succeed(case: Case) -> None:
    with case.faults.on(FaultKind.PUT_FORGOTTEN, key_prefix="packs/"):
        case.store.put_if_absent("packs/1/c", b"x")
    assert case.listed() == list(KEYS)


def test_faults_of_servers_work_for_any_store(case: Case) -> None:
    for kind in (FaultKind.UNAVAILABLE, FaultKind.THROTTLED, FaultKind.RESET, FaultKind.TRUNCATED):
        with case.faults.on(kind), pytest.raises(TransientStoreError):
            case.store.get("packs/1/a")
    with case.faults.on(FaultKind.APPLIED_THEN_ERROR), pytest.raises(StoreUnreachable):
        case.store.put_if_absent("packs/1/c", b"x")
    assert case.store.get("packs/1/c") == b"x"
    with case.faults.on(FaultKind.LISTING_ENDS_EARLY):
        assert case.listed("packs/1/") == ["packs/1/a"]
    with case.faults.on(FaultKind.IGNORED_PRECONDITION):
        case.store.put_if_absent("packs/1/c", b"y")
    assert case.store.get("packs/1/c") == b"y"
    with case.faults.on(FaultKind.DELAY, delay_s=0.001) as fault:
        case.store.get("packs/1/c")
    assert fault.times_triggered == 1


# --- what happens once, and stays


def test_a_store_can_be_restored_and_copied(case: Case) -> None:
    before = copy_objects(case.without_faults)
    case.store.put_if_absent("snapshots/1-3", b"")
    case.store.delete_many(["packs/1/a"])
    corrupt_object(case.without_faults, "packs/1/b")
    assert case.store.get("packs/1/b") != before.objects["packs/1/b"][0]
    other = MemoryStore()
    copy_to(case.without_faults, other)
    restore_objects(case.without_faults, before)
    assert copy_objects(case.without_faults) == before
    assert [info.key for info in other.list()] == ["packs/1/b", "snapshots/1-1", "snapshots/1-2", "snapshots/1-3"]


def test_objects_can_be_deleted_and_truncated(case: Case) -> None:
    assert delete_objects(case.without_faults, prefix="snapshots/") == ["snapshots/1-1", "snapshots/1-2"]
    assert delete_objects(case.without_faults, ["packs/1/a"]) == ["packs/1/a"]
    truncate_object(case.without_faults, "packs/1/b", 3)
    assert [(info.key, info.size) for info in case.store.list()] == [("packs/1/b", 3)]


# --- the stores that cas3fs opens


@pytest.mark.parametrize(
    "url", [lambda folder: folder.as_uri(), lambda folder: "memory://here"], ids=["file", "memory"]
)
def test_every_opened_store_has_faults(faulty_stores: FaultyStores, tmp_path: Path, url: Callable[[Path], str]) -> None:
    where, metrics = url(tmp_path), Metrics()
    no_patience = RetryPolicy(deadline_s=0)
    with closing(open_store(StoreSettings(where), metrics=metrics, retry=no_patience)) as one:
        one.put_if_absent("a", b"x")
        with closing(open_store(StoreSettings(where), metrics=metrics, retry=no_patience)) as other:
            assert other.get("a") == faulty_stores.without_faults(where).get("a") == b"x"
            with faulty_stores.faults.on(FaultKind.RESET), pytest.raises(StoreError):
                other.get("a")
            with faulty_stores.faults.on(FaultKind.EVENTUAL_LISTING):
                faulty_stores.without_faults(where).put_if_absent("b", b"")
                assert [info.key for info in other.list()] == ["a"]


def test_a_fault_that_a_store_lacks_is_refused() -> None:
    store = FaultyStore(MemoryStore())
    assert FaultKind.HTML_PAGE not in STORE_FAULTS
    with pytest.raises(ValueError, match="HTML_PAGE"):
        store.faults.switch_on(FaultKind.HTML_PAGE)
