# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume to be damaged and mended, and a way to damage it for each code of a finding."""

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
from cas3fs.maintenance.bookmarks import Bookmark
from cas3fs.maintenance.fsck import Fsck, FsckResult, FsckSettings, check, patient_of
from tests.maintenance.rig import KIB, Rig, noise

ROOT = Owner(0, 0)


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
        self.fs.names = type(self.fs.names)(self.fs.index, self.fs._on_inode_refused)

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
        self.fs.names = type(self.fs.names)(self.fs.index, self.fs._on_inode_refused)
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

    def sharing_with_f0(self) -> set[str]:
        """f0, and the files of the root that have blocks in a pack in which it has some."""
        packs = f"SELECT b.pack FROM blocks b JOIN chunks c ON c.block = b.id WHERE c.inode = {F0}"
        rows = self.fs.index._database.connection.execute(
            "SELECT d.name FROM dentries d JOIN chunks c ON c.inode = d.inode JOIN blocks b ON b.id = c.block "
            f"WHERE b.pack IN ({packs})"
        )
        return {"f0"} | {name.decode() for (name,) in rows.fetchall()}

    def lost(self) -> list[str]:
        return self.names_in(self.inode("lost+found"))


def make(folder: Path, **options: Any) -> Ward:
    """A ward with a few files; options are the rig's."""
    ward = Ward(folder, **options)
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


def pack_of(ward: Ward, inode: str) -> str:
    """The name of the pack in which a block of that inode, a query, lies."""
    query = f"SELECT pack FROM blocks JOIN chunks ON block = id WHERE inode = {inode} LIMIT 1"
    return str(ward.one(f"SELECT name FROM packs WHERE id = ({query})"))


def pack_of_f0(ward: Ward) -> str:
    """The name of the pack in which a block of f0 lies."""
    return pack_of(ward, F0)


def replace(ward: Ward, key: str, body: bytes) -> None:
    """Another body for an object, behind everybody's back."""
    ward.inner.delete_many([key])
    ward.inner.put_if_absent(key, body)


def flip(ward: Ward, key: str, place: int | None = None) -> None:
    """Changes a byte of an object, in the middle unless told where."""
    body = bytearray(ward.inner.get(key))
    body[len(body) // 2 if place is None else place] ^= 1
    replace(ward, key, bytes(body))


def cut(ward: Ward, key: str) -> None:
    """Takes the last bytes off an object."""
    replace(ward, key, ward.inner.get(key)[:-9])


def held_pack(ward: Ward) -> str:
    """A pack of which only a snapshot has need: its key."""
    ward.write("gone", noise(77, 60 * KIB))
    ward.publish()
    made = pack_of(ward, INODE.format("gone"))
    ward.remove("gone")
    ward.gc()
    return f"packs/{made}"


def remove_a_pack(ward: Ward) -> None:
    ward.inner.delete_many([f"packs/{pack_of_f0(ward)}"])


def lose_a_pack(ward: Ward) -> None:
    remove_a_pack(ward)
    ward.fsck()


def lose_a_held_pack(ward: Ward) -> None:
    ward.inner.delete_many([held_pack(ward)])
    ward.fsck()


def lose_staged_bytes(ward: Ward) -> None:
    ward.write("big", noise(9, 900 * KIB))
    ward.fs.commit()
    for staged in (ward.folder / "staging").iterdir():
        if staged.name != "reserve":
            staged.unlink()
    ward.rows = ward.fs.staging.records


def damage_a_record(ward: Ward) -> None:
    ward.write("small", b"staged")
    ward.fs.commit()
    ward.rows = ward.fs.staging.records
    (row,) = ward.rows.rows()
    ward.rows.save([row._replace(size=-5)])
    ward.rows.commit()


STORE_DAMAGES: Final[dict[str, Callable[[Ward], object]]] = {
    "pack-missing": remove_a_pack,
    "pack-wrong-size": lambda ward: cut(ward, f"packs/{pack_of_f0(ward)}"),
    "block-damaged": lambda ward: flip(ward, f"packs/{pack_of_f0(ward)}", 5000),
    "snapshot-pack-missing": lambda ward: ward.inner.delete_many([held_pack(ward)]),
    "snapshot-pack-damaged": lambda ward: flip(ward, held_pack(ward)),
    "snapshot-damaged": lambda ward: flip(ward, f"snapshots/{ward.newest}"),
    "snapshot-unreadable": lambda ward: flip(ward, f"pages/{ward.newest}"),
    "pages-missing": lambda ward: ward.inner.delete_many([f"pages/{ward.newest}"]),
    "pages-wrong-size": lambda ward: cut(ward, f"pages/{ward.newest}"),
}
"""By code, what damages the store."""


def note_lost_bytes(ward: Ward) -> None:
    """The record of a layer of which the local disk has lost bytes."""
    inode = ward.fs.lookup(1, b"f0")
    (ward.folder / "staging" / f"{inode.number:x}-{inode.stored_seq + 1:x}").write_bytes(bytes(4096))
    ward.rows = ward.fs.staging.records
    ranges = pack_ranges([(0, 4096)])
    ward.rows.save([StagedRow(inode.number, inode.stored_seq + 1, None, inode.size, 0, 0, ranges, None, ranges)])
    ward.rows.commit()


def put_a_record_aside(ward: Ward) -> None:
    Quarantine(ward.folder / "staging").keep(StagedRow(7, 1, None, -5, 0, 0, b"", b"bytes"), "for the test")


NOTED: Final[dict[str, Callable[[Ward], object]]] = {
    "object-unknown": lambda ward: ward.inner.put_if_absent("who/knows", b"x"),
    "snapshot-put-aside": lambda ward: (flip(ward, f"snapshots/{ward.newest}"), ward.fsck()),
    "known-loss": lose_a_pack,
    "known-snapshot-loss": lose_a_held_pack,
    "staging-bytes-lost": note_lost_bytes,
    "staging-put-aside": put_a_record_aside,
}
"""By code, what leads to a note."""


def codes(result: FsckResult) -> set[str]:
    """What was found."""
    return {one.code for one in result.findings}
