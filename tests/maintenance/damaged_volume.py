# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume that tests damage and repair, and the damage for each code of a finding."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cas3fs.caches.memory import MemoryCache
from cas3fs.errors import BlockError, Cas3fsError
from cas3fs.filesystem import Owner
from cas3fs.filesystem.state.extents import pack_ranges
from cas3fs.filesystem.state.quarantine import Quarantine
from cas3fs.index import StagedRow, StagingIndex, ordinal_of
from cas3fs.maintenance.fsck.target import fsck_target_of
from cas3fs.maintenance.fsck.verify_checkpoint import VerifyCheckpoint
from cas3fs.maintenance.fsck.volume_check import FsckResult, FsckSettings, check_volume
from cas3fs.maintenance.fsck.volume_repair import VolumeRepairer
from cas3fs.testing.store_damage import corrupt_object
from tests.maintenance.memory_volume import KIB, MemoryVolume, noise

ROOT = Owner(0, 0)


class DamagedVolume(MemoryVolume):
    """A volume whose file system is idle, to be damaged and repaired."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.cache: MemoryCache | None = None
        self.rows: StagingIndex | None = None

    def sql(self, *statements: str, values: tuple[Any, ...] = ()) -> None:
        """Changes the index without the file system's knowledge."""
        self.fs.commit()
        with self.fs.index_transaction() as index:
            for statement in statements:
                index._database.connection.execute(statement, values)
        self.fs.drop_caches()

    def one(self, query: str) -> Any:
        return self.index._database.connection.execute(query).fetchone()[0]

    def target(self) -> Any:
        staging = None if self.rows is None else (self.folder / "staging", self.rows)
        return fsck_target_of(self.context, ordinal_of(self.publisher.next_number), is_live=False, staging=staging)

    def check(self, **options: Any) -> FsckResult:
        return check_volume(self.target(), FsckSettings(**options), VerifyCheckpoint(self.folder / "checkpoint"))

    def fsck(self, **options: Any) -> FsckResult:
        def forget_parent() -> None:
            self.newest = None

        fsck = VolumeRepairer(
            self.context,
            self.target,
            VerifyCheckpoint(self.folder / "checkpoint"),
            repair_index=True,
            cache=self.cache,
            forget_parent=forget_parent,
        )
        return fsck.repair(FsckSettings(repair=True, **options))

    def readable_contents(self) -> dict[str, bytes | None]:
        """The content of every file in the root directory; None if it cannot be read."""
        contents: dict[str, bytes | None] = {}
        for name in self.names_in(1):
            try:
                contents[name] = self.read(name)
            except BlockError:
                contents[name] = None
            except Cas3fsError:
                continue
        return contents

    def names_in(self, folder: int) -> list[str]:
        rows = self.index._database.connection.execute("SELECT name FROM dentries WHERE parent = ?", (folder,))
        return sorted(name.decode() for (name,) in rows.fetchall())

    def inode(self, name: str) -> int:
        return self.fs.lookup(1, name.encode()).number

    def make_folder(self, name: str, parent: int = 1) -> int:
        return self.fs.mkdir(parent, name.encode(), 0o755, ROOT).number

    def sharing_with_f0(self) -> set[str]:
        """f0, and the files in the root directory that have blocks in the same pack as f0."""
        packs = f"SELECT b.pack FROM blocks b JOIN chunks c ON c.block = b.id WHERE c.inode = {F0}"
        rows = self.index._database.connection.execute(
            "SELECT d.name FROM dentries d JOIN chunks c ON c.inode = d.inode JOIN blocks b ON b.id = c.block "
            f"WHERE b.pack IN ({packs})"
        )
        return {"f0"} | {name.decode() for (name,) in rows.fetchall()}

    def names_in_lost_and_found(self) -> list[str]:
        return self.names_in(self.inode("lost+found"))


def make_volume(folder: Path, **options: Any) -> DamagedVolume:
    """A volume with a few files; options are those of `MemoryVolume`."""
    damaged = DamagedVolume(folder, **options)
    for number in range(6):
        damaged.write(f"f{number}", noise(number))
    outer = damaged.make_folder("outer")
    inner = damaged.make_folder("inner", outer)
    _made, handle = damaged.fs.create(inner, b"deep", 0o600, os.O_RDWR, ROOT)
    damaged.fs.write(handle, 0, b"deep down")
    damaged.fs.release(handle)
    damaged.fs.symlink(1, b"link", b"target", ROOT)
    damaged.fs.setxattr(damaged.inode("f5"), b"user.a", b"value")
    damaged.publish()
    return damaged


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
    "chunks-unlike-sums": (f"DELETE FROM chunks WHERE inode = {F0} AND offset = 4096",),
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


def pack_of(damaged: DamagedVolume, inode: str) -> str:
    """The name of the pack of a block of an inode, which is given as a query."""
    query = f"SELECT pack FROM blocks JOIN chunks ON block = id WHERE inode = {inode} LIMIT 1"
    return str(damaged.one(f"SELECT name FROM packs WHERE id = ({query})"))


def pack_of_f0(damaged: DamagedVolume) -> str:
    """The name of the pack of a block of f0."""
    return pack_of(damaged, F0)


def replace_object(damaged: DamagedVolume, key: str, body: bytes) -> None:
    """Replaces the body of an object."""
    damaged.inner.delete_many([key])
    damaged.inner.put_if_absent(key, body)


def flip_byte(damaged: DamagedVolume, key: str, place: int | None = None) -> None:
    """Changes a byte of an object, by default all of its middle third, as `corrupt_object` does."""
    corrupt_object(damaged.inner, key, place)


def cut_object(damaged: DamagedVolume, key: str) -> None:
    """Removes the last bytes of an object."""
    replace_object(damaged, key, damaged.inner.get(key)[:-9])


def held_pack(damaged: DamagedVolume) -> str:
    """The key of a pack that only a snapshot needs."""
    damaged.write("gone", noise(77, 60 * KIB))
    damaged.publish()
    made = pack_of(damaged, INODE.format("gone"))
    damaged.remove("gone")
    damaged.gc()
    return f"packs/{made}"


def remove_a_pack(damaged: DamagedVolume) -> None:
    damaged.inner.delete_many([f"packs/{pack_of_f0(damaged)}"])


def lose_a_pack(damaged: DamagedVolume) -> None:
    remove_a_pack(damaged)
    damaged.fsck()


def lose_a_held_pack(damaged: DamagedVolume) -> None:
    damaged.inner.delete_many([held_pack(damaged)])
    damaged.fsck()


def lose_staged_bytes(damaged: DamagedVolume) -> None:
    damaged.write("big", noise(9, 900 * KIB))
    damaged.fs.commit()
    for staged in (damaged.folder / "staging").iterdir():
        if staged.name != "reserve":
            staged.unlink()
    damaged.rows = damaged.fs.staging.rows.records


def damage_a_record(damaged: DamagedVolume) -> None:
    damaged.write("small", b"staged")
    damaged.fs.commit()
    damaged.rows = damaged.fs.staging.rows.records
    (row,) = damaged.rows.rows()
    damaged.rows.save([row._replace(size=-5)])
    damaged.rows.commit()


STORE_DAMAGES: Final[dict[str, Callable[[DamagedVolume], object]]] = {
    "pack-missing": remove_a_pack,
    "pack-wrong-size": lambda damaged: cut_object(damaged, f"packs/{pack_of_f0(damaged)}"),
    "block-damaged": lambda damaged: flip_byte(damaged, f"packs/{pack_of_f0(damaged)}", 5000),
    "snapshot-pack-missing": lambda damaged: damaged.inner.delete_many([held_pack(damaged)]),
    "snapshot-pack-damaged": lambda damaged: flip_byte(damaged, held_pack(damaged)),
    "snapshot-damaged": lambda damaged: flip_byte(damaged, f"snapshots/{damaged.newest}"),
    "snapshot-unreadable": lambda damaged: flip_byte(damaged, f"pages/{damaged.newest}"),
    "pages-missing": lambda damaged: damaged.inner.delete_many([f"pages/{damaged.newest}"]),
    "pages-wrong-size": lambda damaged: cut_object(damaged, f"pages/{damaged.newest}"),
}
"""The damage to the store, by code."""


def record_lost_staged_data(damaged: DamagedVolume) -> None:
    """Saves a record of staging whose data the local disk has lost."""
    inode = damaged.fs.lookup(1, b"f0")
    (damaged.folder / "staging" / f"{inode.number:x}-{inode.stored_seq + 1:x}").write_bytes(bytes(4096))
    damaged.rows = damaged.fs.staging.rows.records
    ranges = pack_ranges([(0, 4096)])
    damaged.rows.save([StagedRow(inode.number, inode.stored_seq + 1, None, inode.size, 0, 0, ranges, None, ranges)])
    damaged.rows.commit()


def quarantine_a_record(damaged: DamagedVolume) -> None:
    Quarantine(damaged.folder / "staging").keep(StagedRow(7, 1, None, -5, 0, 0, b"", b"bytes"), "for the test")


NOTED: Final[dict[str, Callable[[DamagedVolume], object]]] = {
    "object-unknown": lambda damaged: damaged.inner.put_if_absent("who/knows", b"x"),
    "snapshot-put-aside": lambda damaged: (flip_byte(damaged, f"snapshots/{damaged.newest}"), damaged.fsck()),
    "known-loss": lose_a_pack,
    "known-snapshot-loss": lose_a_held_pack,
    "staging-bytes-lost": record_lost_staged_data,
    "staging-put-aside": quarantine_a_record,
}
"""What leads to a note, by code."""


def codes(result: FsckResult) -> set[str]:
    """The codes of the findings."""
    return {one.code for one in result.findings}
