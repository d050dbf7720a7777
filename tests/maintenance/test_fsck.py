# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is wrong is found, named, mended, and then gone; and what is not wrong does not change by a byte."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas3fs.caches.memory import MemoryCache
from cas3fs.errors import BlockError, Cas3fsError
from cas3fs.filesystem import Owner
from cas3fs.index import StagedRow, StagingIndex, ordinal_of
from cas3fs.maintenance.findings import KINDS, Finding
from cas3fs.maintenance.fsck import Fsck, FsckResult, FsckSettings, check, patient_of
from cas3fs.maintenance.verifying import Bookmark
from tests.maintenance.rig import KIB, Rig, noise

ROOT = Owner(0, 0)
REPAIR = FsckSettings(repair=True)


class Ward(Rig):
    """A rig whose file system is at rest, to be damaged and mended."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.cache: MemoryCache | None = None
        self.rows: StagingIndex | None = None

    def sql(self, *statements: str, values: tuple[Any, ...] = ()) -> None:
        """Changes the index behind everybody's back."""
        self.fs.commit()
        with self.fs.lock, self.fs.operation():
            for statement in statements:
                self.fs.index._database.connection.execute(statement, values)
        self.fs.commit()
        self.fs.inodes.cached.clear()
        self.fs.names = type(self.fs.names)(self.fs.index)

    def one(self, query: str) -> Any:
        return self.fs.index._database.connection.execute(query).fetchone()[0]

    def patient(self) -> Any:
        staging = None if self.rows is None else (self.folder / "staging", self.rows)
        return patient_of(self.premises, ordinal_of(self.publishing.next_number), is_live=False, staging=staging)

    def check(self, **options: Any) -> FsckResult:
        return check(self.patient(), FsckSettings(**options), Bookmark(self.folder / "bookmark"))

    def fsck(self, **options: Any) -> FsckResult:
        def forget_parent() -> None:
            self.newest = None

        fsck = Fsck(
            self.premises,
            self.patient,
            Bookmark(self.folder / "bookmark"),
            mend_index=True,
            cache=self.cache,
            forget_parent=forget_parent,
        )
        result = fsck.repair(FsckSettings(repair=True, **options))
        self.fs.inodes.cached.clear()
        self.fs.names = type(self.fs.names)(self.fs.index)
        return result

    def found(self) -> dict[str, bytes | None]:
        """The content of every file of the root, None where it cannot be read."""
        told: dict[str, bytes | None] = {}
        for name in self.names_in(1):
            try:
                told[name] = self.read(name)
            except BlockError:
                told[name] = None
            except Cas3fsError:
                continue
        return told

    def names_in(self, folder: int) -> list[str]:
        rows = self.fs.index._database.connection.execute("SELECT name FROM dentries WHERE parent = ?", (folder,))
        return sorted(name.decode() for (name,) in rows.fetchall())

    def inode(self, name: str) -> int:
        return self.fs.lookup(1, name.encode()).number

    def folder_in(self, name: str, parent: int = 1) -> int:
        return self.fs.mkdir(parent, name.encode(), 0o755, ROOT).number

    def lost(self) -> list[str]:
        return self.names_in(self.inode("lost+found"))


def make(folder: Path) -> Ward:
    ward = Ward(folder)
    for number in range(6):
        ward.write(f"f{number}", noise(number))
    outer = ward.folder_in("outer")
    inner = ward.folder_in("inner", outer)
    _made, handle = ward.fs.create(inner, b"deep", 0o600, os.O_RDWR, ROOT)
    ward.fs.write(handle, 0, b"deep down")
    ward.fs.release(handle)
    ward.fs.symlink(1, b"link", b"target", ROOT)
    ward.fs.setxattr(ward.inode("f5"), b"user.a", b"value")
    ward.publish()
    return ward


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    made = make(tmp_path / "ward")
    yield made
    made.close()


INODE = "(SELECT inode FROM dentries WHERE name = CAST('{}' AS BLOB))"
F0, F1, OUTER, INNER, LINK = (INODE.format(name) for name in ("f0", "f1", "outer", "inner", "link"))

DAMAGES: dict[str, tuple[str, ...]] = {
    "root-missing": ("DELETE FROM inodes WHERE id = 1",),
    "root-named": (f"INSERT INTO dentries (parent, name, inode) VALUES ({OUTER}, CAST('up' AS BLOB), 1)",),
    "inode-without-name": ("DELETE FROM dentries WHERE name = CAST('f0' AS BLOB)",),
    "name-without-inode": ("INSERT INTO dentries (parent, name, inode) VALUES (1, CAST('ghost' AS BLOB), 9999)",),
    "name-in-no-folder": ("UPDATE dentries SET parent = 7777 WHERE name = CAST('f0' AS BLOB)",),
    "folder-with-many-names": (
        f"INSERT INTO dentries (parent, name, inode) VALUES (1, CAST('again' AS BLOB), {INNER})",
    ),
    "unreachable": (f"UPDATE dentries SET parent = {INNER} WHERE name = CAST('outer' AS BLOB)",),
    "wrong-link-count": (f"UPDATE inodes SET nlink = 5 WHERE id = {F0}",),
    "wrong-type": (f"UPDATE inodes SET mode = 384 WHERE id = {F0}",),
    "link-without-target": (f"DELETE FROM symlinks WHERE inode = {LINK}",),
    "target-of-no-link": (f"INSERT INTO symlinks (inode, target) VALUES ({F0}, CAST('x' AS BLOB))",),
    "chunks-of-no-file": (f"UPDATE chunks SET inode = {OUTER} WHERE inode = {F0} AND offset = 0",),
    "content-without-inode": (f"DELETE FROM inodes WHERE id = {F0}",),
    "target-without-inode": (f"DELETE FROM inodes WHERE id = {LINK}",),
    "attribute-without-inode": (
        "INSERT INTO xattrs (inode, name, value) VALUES (8888, CAST('user.x' AS BLOB), CAST('v' AS BLOB))",
    ),
    "size-negative": (f"UPDATE inodes SET size = -1 WHERE id = {F0}",),
    "chunk-impossible": (f"UPDATE chunks SET skip = -4 WHERE inode = {F0} AND offset = 4096",),
    "chunks-overlap": (
        f"UPDATE chunks SET length = 5000 WHERE inode = {F0} AND offset = 0",
        "UPDATE blocks SET plain_length = 5000 WHERE id IN "
        f"(SELECT block FROM chunks WHERE inode = {F0} AND offset = 0)",
    ),
    "chunk-past-end": (f"UPDATE inodes SET size = 100 WHERE id = {F0}",),
    "chunk-without-block": (
        f"DELETE FROM blocks WHERE id IN (SELECT block FROM chunks WHERE inode = {F0} AND offset = 4096)",
    ),
    "chunk-past-block": (f"UPDATE chunks SET skip = 96 WHERE inode = {F0} AND offset = 4096",),
    "block-without-pack": (
        f"UPDATE blocks SET pack = 777 WHERE id IN (SELECT block FROM chunks WHERE inode = {F0} AND offset = 4096)",
    ),
    "block-out-of-pack": (
        "UPDATE blocks SET offset = 99999999 WHERE id IN "
        f"(SELECT block FROM chunks WHERE inode = {F0} AND offset = 4096)",
    ),
    "pack-dead-but-used": ("UPDATE packs SET died = born + 1 WHERE id = 1",),
    "pack-dead-before-born": (
        "INSERT INTO packs (name, size, born, died) VALUES ('00000001/" + "aa" * 32 + "', 10, 9, 3)",
    ),
    "pack-born-in-future": ("UPDATE packs SET born = 1 << 60 WHERE id = 1",),
}
EIO = {"chunk-impossible", "chunk-without-block", "chunk-past-block"}
"""After these f0 cannot be read in parts, for ever."""
MOVED = {"inode-without-name", "name-in-no-folder"}


def codes(result: FsckResult) -> set[str]:
    return {one.code for one in result.findings}


@pytest.mark.parametrize("code", DAMAGES)
def test_damage_of_the_index_is_found_named_mended_and_gone(ward: Ward, code: str) -> None:
    before = ward.found()
    assert ward.check().findings == ()
    ward.sql(*DAMAGES[code])
    assert code in codes(ward.check())
    assert ward.check().status == 4
    result = ward.fsck()
    assert (result.status, code in codes(result)) == (1, True), result.as_json()
    second = ward.check()
    assert second.status == 0, second.as_json()
    after = ward.found()
    for name in ("f1", "f2", "f3", "f4", "f5"):
        assert after[name] == before[name]
    if code in EIO:
        assert after["f0"] is None
    elif code in MOVED:
        assert any(name.startswith("#") for name in ward.lost())
    ward.publish()
    ward.check_snapshots_that_can_be_read()


def test_every_code_of_the_index_has_its_damage() -> None:
    from cas3fs.index.checks import QUERIES

    assert set(DAMAGES) == set(QUERIES)


def test_a_location_that_was_lost_is_found_again_in_the_pack(ward: Ward) -> None:
    before = ward.found()
    for code in ("block-without-pack", "block-out-of-pack"):
        ward.sql(*DAMAGES[code])
        assert ward.fsck().status == 1
        assert ward.found() == before


class TestPacks:
    """Objects of the store are damaged."""

    def pack(self, ward: Ward) -> str:
        return str(ward.one(f"SELECT name FROM packs WHERE id = (SELECT pack FROM blocks JOIN chunks ON block = id "
                            f"WHERE inode = {F0} LIMIT 1)"))  # fmt: skip

    def test_one_that_is_gone_is_a_known_loss_after_the_repair(self, ward: Ward) -> None:
        before, pack = ward.found(), self.pack(ward)
        ward.inner.delete_many([f"packs/{pack}"])
        (finding,) = ward.check().findings
        assert (finding.code, finding.touches["pack"]) == ("pack-missing", pack)
        assert "/f0" in finding.paths
        assert ward.fsck().status == 1
        second = ward.check()
        assert (second.status, codes(second)) == (0, {"known-loss"})
        after = ward.found()
        assert after["f0"] is None
        hurt = set(finding.paths)
        assert {name: data for name, data in after.items() if f"/{name}" not in hurt} == {
            name: data for name, data in before.items() if f"/{name}" not in hurt
        }
        ward.gc()  # goes on all the same

    def test_a_gc_goes_on_beside_what_is_lost_in_parts(self, ward: Ward) -> None:
        ward.sql(*DAMAGES["chunk-without-block"])
        assert ward.fsck().status == 1
        ward.remove("f3")
        ward.gc()
        assert ward.check().status == 0
        assert ward.found()["f0"] is None

    def test_what_the_cache_has_is_stored_again(self, ward: Ward) -> None:
        before, pack = ward.found(), self.pack(ward)
        ward.cache = MemoryCache(10 << 20)
        with_blocks = ward.fs.index._database.connection.execute(
            "SELECT b.hash, i.inode, i.offset FROM blocks b JOIN chunks i ON i.block = b.id"
        ).fetchall()
        for number in range(6):
            inode = ward.inode(f"f{number}")
            for block, owner, offset in with_blocks:
                if owner == inode:
                    ward.cache.put(block, noise(number)[offset : offset + 4096])
        ward.inner.delete_many([f"packs/{pack}"])
        assert ward.fsck().status == 1
        assert ward.found() == before
        assert ward.check().status == 0

    def test_what_lies_in_another_pack_too_is_found_there(self, ward: Ward) -> None:
        before, pack = ward.found(), self.pack(ward)
        body = ward.inner.get(f"packs/{pack}")
        ward.inner.put_if_absent("packs/00000001/" + "ee" * 32, body)
        ward.inner.delete_many([f"packs/{pack}"])
        assert ward.fsck().status == 1
        assert ward.found() == before

    def test_one_of_another_size_is_looked_into(self, ward: Ward) -> None:
        pack = self.pack(ward)
        body = ward.inner.get(f"packs/{pack}")
        ward.inner.delete_many([f"packs/{pack}"])
        ward.inner.put_if_absent(f"packs/{pack}", body[: len(body) // 2])
        assert codes(ward.check()) >= {"pack-wrong-size"}
        assert ward.fsck().status == 1
        assert ward.check().status == 0
        assert ward.found()["f5"] == noise(5)

    def test_a_changed_byte_is_found_by_reading_back(self, ward: Ward) -> None:
        before, pack = ward.found(), self.pack(ward)
        body = bytearray(ward.inner.get(f"packs/{pack}"))
        body[5000] ^= 1
        ward.inner.delete_many([f"packs/{pack}"])
        ward.inner.put_if_absent(f"packs/{pack}", bytes(body))
        assert ward.check().status == 0
        (finding,) = ward.check(verify_data=True).findings
        assert (finding.code, finding.paths, finding.ranges) == ("block-damaged", ("/f0",), ((4096, 4096),))
        assert ward.fsck(verify_data=True).status == 1
        assert ward.check(verify_data=True).status == 0
        after = ward.found()
        assert after.pop("f0") is None
        before.pop("f0")
        assert after == before

    def test_an_unknown_object_is_told_and_left(self, ward: Ward) -> None:
        ward.inner.put_if_absent("who/knows", b"x")
        assert codes(ward.check()) == {"object-unknown"}
        assert ward.fsck().status == 0
        assert ward.inner.get("who/knows") == b"x"


class TestSnapshots:
    """Manifests and pages are damaged."""

    def test_a_manifest_that_cannot_be_read_is_put_aside(self, ward: Ward) -> None:
        key = f"snapshots/{ward.newest}"
        body = bytearray(ward.inner.get(key))
        body[len(body) // 2] ^= 1
        ward.inner.delete_many([key])
        ward.inner.put_if_absent(key, bytes(body))
        (finding,) = ward.check().findings
        assert (finding.code, finding.touches["snapshot"]) == ("snapshot-damaged", ward.newest)
        assert ward.fsck().status == 1
        assert ward.inner.get(f"damaged/{key}") == bytes(body)
        assert ward.check().status == 0
        ward.snapshots.clear()
        ward.publish()
        ward.check_snapshots()
        needed = set(ward.packs())
        for name in ward.names():
            ward.remove(name)
        ward.publish()
        for snapshot in [one for one in ward.snapshots if one != ward.newest]:
            ward.drop_snapshot(snapshot)
        ward.gc()
        assert needed <= set(ward.packs())  # until a person deletes what was put aside
        ward.inner.delete_many([f"damaged/{key}"])
        for snapshot in [one for one in ward.snapshots if one != ward.newest]:
            ward.drop_snapshot(snapshot)
        assert ward.gc().deleted_packs > 0
        ward.check_snapshots()

    @pytest.mark.parametrize("code", ["pages-missing", "pages-wrong-size"])
    def test_a_snapshot_without_its_pages_is_put_aside(self, ward: Ward, code: str) -> None:
        key = f"pages/{ward.newest}"
        body = ward.inner.get(key)
        ward.inner.delete_many([key])
        if code == "pages-wrong-size":
            ward.inner.put_if_absent(key, body[:-9])
        assert codes(ward.check()) == {code}
        assert ward.fsck().status == 1
        assert ward.check().status == 0
        ward.snapshots.clear()
        ward.publish()
        ward.check_snapshots()


def test_a_record_of_staging_that_a_crash_left_behind_is_no_finding(tmp_path: Path) -> None:
    ward = make(tmp_path / "ward")
    ward.write("big", noise(9, 900 * KIB))
    ward.fs.commit()
    ward.fs.store_all()
    ward.rows = ward.fs.staging.records
    number = ward.fs.lookup(1, b"big").number
    ward.rows.save([StagedRow(number, 1, 0, 900 * KIB, 0, 0, b"", None)])
    ward.rows.commit()
    assert codes(ward.check()) == set()
    ward.close()


def test_a_record_of_staging_without_its_bytes_is_put_aside(tmp_path: Path) -> None:
    ward = make(tmp_path / "ward")
    ward.write("big", noise(9, 900 * KIB))
    ward.fs.commit()
    (bytes_of_big,) = [path for path in (ward.folder / "staging").iterdir() if path.name != "reserve"]
    bytes_of_big.unlink()
    rows = ward.rows = ward.fs.staging.records
    assert codes(ward.check()) == {"staging-bytes-missing"}
    assert ward.fsck().status == 1
    assert ward.check().status == 0
    assert list(rows.rows()) == []
    assert (ward.folder / "staging" / "records-put-aside.json").read_text()
    ward.close()


def test_a_damaged_database_file_is_told(ward: Ward, tmp_path: Path) -> None:
    ward.fs.commit()
    copy = tmp_path / "copy.sqlite"
    ward.fs.index.copy_to(copy)
    data = bytearray(copy.read_bytes())
    for page in range(3, len(data) // 4096):
        data[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    copy.write_bytes(bytes(data))
    import attrs

    result = check(attrs.evolve(ward.patient(), index=copy), FsckSettings(), Bookmark(tmp_path / "b"))
    assert codes(result) == {"index-damaged"}


COMBINABLE = sorted(set(DAMAGES) - {"root-missing", "content-without-inode", "wrong-type", "chunks-of-no-file"})


@settings(max_examples=settings.default.max_examples // 8, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(COMBINABLE), min_size=2, max_size=5, unique=True))
def test_several_damages_at_once_change_no_byte_of_other_files(tmp_path_factory: Any, damages: list[str]) -> None:
    ward = make(tmp_path_factory.mktemp("many") / "ward")
    before = ward.found()
    for code in damages:
        try:
            ward.sql(*DAMAGES[code])
        except sqlite3.IntegrityError:
            continue  # an earlier one has taken away what it damages
    result = ward.fsck()
    assert result.status in (0, 1), result.as_json()
    assert ward.check().status == 0
    after = ward.found()
    assert {name: after.get(name) for name in ("f1", "f2", "f3", "f4", "f5")} == {
        name: before[name] for name in ("f1", "f2", "f3", "f4", "f5")
    }
    f0 = after.get("f0")
    assert f0 is None or bytes(len(f0)) != f0
    ward.close()


def test_every_finding_can_be_printed() -> None:
    for code in KINDS:
        told = Finding(code, {"hash": b"\1\2", "inode": 3}, paths=("/a",), path_count=1).as_json()
        assert told["code"] == code and told["repair"] and told["touches"]["hash"] == "0102"


class TestReadingBack:
    """Verification of all blocks."""

    def test_it_goes_on_where_its_time_was_up(self, ward: Ward) -> None:
        first = ward.check(verify_data=True, max_duration_s=0).verified
        assert first is not None and not first.is_complete
        rounds = 0
        told = first
        while not told.is_complete:
            told = ward.check(verify_data=True, max_duration_s=0).verified  # type: ignore[assignment]
            rounds += 1
            assert rounds < 50
        blocks = ward.one("SELECT count(*) FROM blocks")
        assert told.blocks == blocks

    def test_all_is_read_in_few_requests(self, ward: Ward) -> None:
        asked: list[str] = []
        inner: Callable[..., bytes] = ward.inner.get_range
        ward.inner.get_range = lambda *args: asked.append(args[0]) or inner(*args)  # type: ignore[method-assign,func-returns-value,assignment]
        result = ward.check(verify_data=True)
        assert result.verified is not None and result.verified.is_complete
        assert len([key for key in asked if key.startswith("packs/")]) <= 2 * len(ward.packs())
