# SPDX-License-Identifier: GPL-3.0-or-later
"""A file or a tree comes back out of a snapshot as it was, without its data being stored again."""

import errno
import os
import random
import stat
from typing import Any

import pytest

from cas3fs.commands.fsck import check_unmounted
from cas3fs.commands.gc import collect_mounted, collect_unmounted
from cas3fs.commands.restore_path import restore_path_unmounted
from cas3fs.control import Message
from cas3fs.control.conversion import encode_args
from cas3fs.control.messages.maintenance import FsckRequest, GcRequest
from cas3fs.control.messages.snapshots import RestorePathRequest
from cas3fs.entries.kinds import PackEntry
from cas3fs.errors import (
    ControlError,
    FileSystemError,
    SnapshotDamaged,
    SnapshotError,
    SnapshotMissing,
    StoreError,
    UsageError,
)
from cas3fs.filesystem import ROOT, Owner
from cas3fs.filesystem.operations.ranges import KEEP_SIZE, PUNCH_HOLE
from cas3fs.filesystem.operations.renames import RenameFlag
from cas3fs.filesystem.state.access_lists import ACCESS
from cas3fs.index.tree_rows import read_tree
from cas3fs.volume.opening import OpenVolume
from cas3fs.volume.snapshot_indexes import open_snapshot_indexes
from tests.volume.conftest import Volume, answer, delete_snapshots, service_of, write

pytestmark = pytest.mark.encryption("plain", "encrypted")

LIST = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000000ffffffff")
"""An access list: another user may read."""


def silent(message: Message) -> None:
    """Nobody watches."""


def text(seed: str) -> str:
    return random.Random(seed).randbytes(50_000).hex()


def publish(opened: OpenVolume, name: str | None = None) -> str:
    assert opened.publisher is not None
    return opened.publisher.publish(name=name)


def restore(opened: OpenVolume, snapshot: str, path: str, to: str, folder: str = "") -> Message:
    """Restores as the command does in a mount, but for the kernel."""
    reply = answer(opened, "restore-path", {"snapshot": snapshot, "path": path, "folder": folder})
    fs = opened.filesystem
    fs.rename(ROOT, reply["name"].encode(), ROOT, to.encode(), RenameFlag.NOREPLACE)
    return reply


def content(opened: OpenVolume, *names: str) -> str:
    fs, number = opened.filesystem, ROOT
    for name in names:
        number = fs.lookup(number, name.encode()).number
    handle = fs.open(number, os.O_RDONLY, Owner())
    try:
        return bytes(fs.read(handle, 0, 1 << 20)).decode()
    finally:
        fs.release(handle)


def collect(opened: OpenVolume, **settings: Any) -> None:
    collect_mounted(service_of(opened), GcRequest(grace_s=0.0, min_live=0.0, **settings), silent)


def delete_letter(opened: OpenVolume, *name: str) -> str:
    """Writes a file and deletes it, and gc forgets its blocks; gives the snapshot in between, which may have a name."""
    write(opened, "letter", text("letter"))
    before = publish(opened, *name)
    opened.filesystem.unlink(ROOT, b"letter")
    collect(opened)
    return before


def packs(volume: Volume) -> set[str]:
    return {one.key for one in volume.archive.shelf.store.list(PackEntry.prefix())}


def findings(volume: Volume, host: str = "here") -> list[Message]:
    found: list[Message] = []
    check_unmounted(
        volume.store_settings,
        volume.folders(host),
        FsckRequest(verify_data=True),
        lambda one: found.append(one["finding"]) if "finding" in one else None,
    )
    return [one for one in found if one["severity"] != "note"]


def test_a_deleted_file_is_back_with_its_bytes_although_gc_forgot_them(volume: Volume) -> None:
    opened = volume.open()
    delete_letter(opened, "before")
    stored = packs(volume)
    with opened.filesystem.index_transaction() as index:
        assert [one.died is None for one in index.blocks.packs()] == [False]
    reply = restore(opened, "before", "letter", "letter")
    assert (reply["files"], reply["logical_bytes"]) == (1, 100_000)
    assert content(opened, "letter") == text("letter")
    assert packs(volume) == stored
    with opened.filesystem.index_transaction() as index:
        assert [one.died for one in index.blocks.packs()] == [None]


def test_what_was_restored_outlives_its_snapshot_and_every_gc(volume: Volume) -> None:
    opened = volume.open()
    before = delete_letter(opened)
    restore(opened, before, "letter", "letter")
    opened.finish()
    opened.close()
    old = [one for one in volume.archive.ids() if one != volume.archive.newest_id()]
    delete_snapshots(volume, "here", *old)
    for host in ("here", "there"):
        collect_unmounted(volume.store_settings, volume.folders(host), GcRequest(grace_s=0.0, min_live=0.0), silent)
    assert content(volume.open("third"), "letter") == text("letter")
    volume.close()
    assert findings(volume) == []


def test_a_gc_at_any_time_after_the_rows_keeps_the_pack(volume: Volume) -> None:
    opened = volume.open()
    before = delete_letter(opened)
    restore(opened, before, "letter", "letter")
    collect(opened)  # nothing was committed or published in between by the test
    answer(opened, "snapshot-delete", {"ids": [before]})
    collect(opened)
    assert content(opened, "letter") == text("letter")


def test_a_crash_before_the_rename_leaves_the_tree_under_its_hidden_name_and_nothing_lost(volume: Volume) -> None:
    opened = volume.open()
    before = delete_letter(opened)
    reply = answer(opened, "restore-path", {"snapshot": before, "path": "letter", "folder": ""})
    opened.close()
    again = volume.open()
    assert content(again, reply["name"]) == text("letter")


def tree_of(opened: OpenVolume) -> dict[str, Any]:
    """A tree with one of everything, below ``t``."""
    fs, owner = opened.filesystem, Owner(1000, 100)
    top = fs.mkdir(ROOT, b"t", 0o2750, owner)
    deep = fs.mkdir(top.number, b"deep", 0o700, Owner(5, 6))
    file, handle = fs.create(top.number, b"file", 0o640, os.O_RDWR, owner)
    fs.write(handle, 0, text("file").encode())
    fs.allocate(handle, 20_000, 40_000, PUNCH_HOLE | KEEP_SIZE)
    fs.release(handle)
    fs.link(file.number, deep.number, b"same")
    fs.link(file.number, ROOT, b"outside")
    fs.symlink(deep.number, b"link", b"../file\xff", owner)
    fs.mknod(deep.number, b"fifo", stat.S_IFIFO | 0o600, 0, owner)
    fs.mknod(deep.number, b"device", stat.S_IFCHR | 0o600, os.makedev(1, 3), Owner(0, 0))
    fs.create(deep.number, b"odd \xfe", 0o600, os.O_RDWR, owner)
    fs.setxattr(file.number, b"user.x", b"value")
    fs.setxattr(deep.number, ACCESS, LIST)
    fs.setattr(file.number, Owner(0, 0), mtime_ns=5_000_000_001, atime_ns=7)
    fs.setattr(top.number, Owner(0, 0), mtime_ns=9)
    return described(opened, b"t")


def described(opened: OpenVolume, name: bytes) -> dict[str, Any]:
    """Everything that a program can see of a tree, by path."""
    fs = opened.filesystem
    found: dict[str, Any] = {}
    first_names: dict[int, str] = {}
    left = [(name, fs.lookup(ROOT, name).number, "")]
    while left:
        _, number, path = left.pop()
        one = fs.getattr(number)
        found[path] = {
            "row": (one.mode, one.uid, one.gid, one.nlink, one.rdev, one.size, one.atime_ns, one.mtime_ns, one.blocks),
            "same as": first_names.setdefault(number, path),
            "attributes": {each: fs.getxattr(number, each) for each in fs.listxattr(number)},
            "list": _list_of(opened, number),
        }
        if stat.S_ISLNK(one.mode):
            found[path]["target"] = fs.readlink(number)
        if stat.S_ISREG(one.mode):
            handle = fs.open(number, os.O_RDONLY | os.O_NOATIME, Owner(0, 0))
            found[path]["bytes"] = bytes(fs.read(handle, 0, 1 << 20))
            found[path]["holes"] = fs.data_ranges(number, 0, one.size)
            fs.release(handle)
        if one.is_directory:
            listing = fs.opendir(number)
            entries = sorted((each, inode.number) for each, inode, _ in fs.readdir(listing, 0))
            fs.releasedir(listing)
            left += [(each, below, f"{path}/{os.fsdecode(each)}") for each, below in reversed(entries)]
    return found


def _list_of(opened: OpenVolume, number: int) -> bytes | None:
    try:
        return opened.filesystem.getxattr(number, ACCESS)
    except FileSystemError:
        return None


def test_a_tree_comes_back_with_everything_that_it_had(volume: Volume) -> None:
    opened = volume.open()
    tree_of(opened)
    publish(opened)  # what is staged has other blocks allocated
    expected = described(opened, b"t")
    before = publish(opened, "before")
    reply = restore(opened, before, "t", "back")
    found = described(opened, b"back")
    for path in ("/file", "/deep/same"):  # the name outside of the tree is not restored
        row = expected[path]["row"]
        expected[path]["row"] = (*row[:3], row[3] - 1, *row[4:])
    assert found == expected
    assert reply["files"] == len({one["same as"] for one in expected.values()})
    opened.finish()
    opened.close()
    assert described(volume.open("there"), b"back") == expected
    volume.close()
    assert findings(volume, "there") == []


def test_flags_that_forbid_changes_are_left_out(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "kept", "x")
    number = opened.filesystem.lookup(ROOT, b"kept").number
    opened.filesystem.set_flags(number, 0x10)
    publish(opened, "before")
    restore(opened, "before", "kept", "back")
    assert opened.filesystem.getattr(opened.filesystem.lookup(ROOT, b"back").number).flags == 0
    assert opened.filesystem.getattr(number).flags == 0x10


@pytest.mark.parametrize("offset", [0, 50_000, 100_000, 150_000])
def test_the_restored_file_is_changed_and_stored_like_any_other(volume: Volume, offset: int) -> None:
    opened = volume.open()
    write(opened, "a", text("a"))
    publish(opened, "before")
    restore(opened, "before", "a", "b")
    handle = opened.filesystem.open(opened.filesystem.lookup(ROOT, b"b").number, os.O_RDWR, Owner())
    opened.filesystem.write(handle, offset, b"changed")
    opened.filesystem.release(handle)
    opened.finish()
    opened.close()
    changed = (text("a") + "\0" * max(0, offset - 100_000))[:offset] + "changed" + text("a")[offset + 7 :]
    there = volume.open("there")
    assert (content(there, "a"), content(there, "b")) == (text("a"), changed)


def test_a_tree_is_entered_in_a_folder_that_is_not_in_the_index_yet(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", "one")
    publish(opened, "before")
    opened.filesystem.mkdir(ROOT, b"new", 0o755, Owner())
    reply = answer(opened, "restore-path", {"snapshot": "before", "path": "a", "folder": "new"})
    assert content(opened, "new", reply["name"]) == "one"


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (RestorePathRequest("before", "nothing", ""), SnapshotError, "has no nothing"),
        (RestorePathRequest("none", "a", ""), SnapshotMissing, "has no snapshot 'none'"),
        (RestorePathRequest("00000009-0000000001", "a", ""), SnapshotMissing, "00000009"),
        (RestorePathRequest("before", "a", "gone"), UsageError, "no folder gone: restore that"),
        (RestorePathRequest("before", "a", "a"), UsageError, "a is not a folder"),
    ],
)
def test_what_cannot_be_restored_changes_nothing(
    volume: Volume, request_: RestorePathRequest, error: type[Exception], words: str
) -> None:
    opened = volume.open()
    write(opened, "a", "one")
    publish(opened, "before")
    with pytest.raises(error, match=words):
        answer(opened, "restore-path", encode_args(request_))
    listing = opened.filesystem.opendir(ROOT)
    assert [name for name, _, _ in opened.filesystem.readdir(listing, 0)] == [b"a"]


def test_a_pack_that_the_store_has_lost_is_named_and_nothing_is_entered(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", text("a"))
    publish(opened, "before")
    opened.filesystem.unlink(ROOT, b"a")
    collect(opened)
    (pack,) = packs(volume)
    (volume.root / "v" / pack).unlink()
    with pytest.raises(SnapshotDamaged, match=pack.removeprefix("packs/")):
        answer(opened, "restore-path", {"snapshot": "before", "path": "a", "folder": ""})
    with opened.filesystem.index_transaction() as index:
        assert all(one.died is not None for one in index.blocks.packs())


def test_a_block_that_is_known_to_be_lost_stays_known(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", text("a"))
    publish(opened, "before")
    number = opened.filesystem.lookup(ROOT, b"a").number
    with opened.filesystem.index_transaction() as index:
        (span,) = index.chunks.spans(number, 0, 1 << 20)
        index.blocks.mark_lost(span.block.hash, span.block.pack)
    restore(opened, "before", "a", "b")
    with opened.filesystem.index_transaction() as index:
        assert [one.hash for one in index.blocks.lost()] == [span.block.hash]


def test_rows_are_refused_when_their_packs_were_not_asked_for(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", text("a"))
    before = publish(opened)
    with (
        open_snapshot_indexes(volume.store_settings, volume.folders("there"), silent) as indexes,
        indexes.open(before) as index,
    ):
        tree = read_tree(index, [b"a"])
    assert tree is not None
    assert opened.filesystem.restored_trees.packs_to_revive(tree) == set()
    opened.filesystem.unlink(ROOT, b"a")
    collect(opened)  # it drops the block between the question and the rows
    with pytest.raises(StoreError, match="try again"):
        opened.filesystem.restored_trees.insert(ROOT, b"b", tree, set())
    assert opened.filesystem.find(ROOT, b"b") is None


def test_a_snapshot_is_not_deleted_while_it_is_read(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", text("a"))
    before = publish(opened)
    write(opened, "b", "")
    publish(opened)
    with (
        open_snapshot_indexes(volume.store_settings, volume.folders("here"), silent) as indexes,
        indexes.open(before),
        pytest.raises(SnapshotError, match="being read by process"),
    ):
        answer(opened, "snapshot-delete", {"ids": [before]})


def test_a_tree_that_is_too_large_is_refused(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", "one")
    write(opened, "b", "two")
    before = publish(opened)
    with (
        open_snapshot_indexes(volume.store_settings, volume.folders("here"), silent) as indexes,
        indexes.open(before) as index,
    ):
        with pytest.raises(SnapshotError, match="more than 4 names and pieces"):
            read_tree(index, [], limit=4)
        assert read_tree(index, [], limit=7) is not None


def test_a_view_refuses_it(volume: Volume) -> None:
    volume.use("here", a="one")
    with pytest.raises(ControlError, match="read-only"):
        answer(volume.view(), "restore-path", {"snapshot": "latest", "path": "a", "folder": ""})


def offline(volume: Volume, snapshot: str, path: str, name: str, *, overwrite: bool = False) -> str | None:
    request = RestorePathRequest(snapshot, path, "")
    return restore_path_unmounted(
        volume.store_settings, volume.folders("here"), request, name, overwrite=overwrite, progress=silent
    )[1]


def test_a_volume_that_nobody_has_open_gets_a_snapshot_with_it(volume: Volume) -> None:
    first = volume.use("here", a="one")
    opened = volume.open()
    opened.filesystem.unlink(ROOT, b"a")
    opened.finish()
    opened.close()
    assert offline(volume, first, "a", "a") is None
    there = volume.open("there")
    assert content(there, "a") == "one"


def test_what_is_there_is_replaced_only_if_that_is_asked_for_and_kept(volume: Volume) -> None:
    first = volume.use("here", a="one")
    opened = volume.open()
    opened.filesystem.unlink(ROOT, b"a")
    write(opened, "a", "two")
    opened.finish()
    opened.close()
    with pytest.raises(UsageError, match="a exists"):
        offline(volume, first, "a", "a")
    assert offline(volume, first, "a", "a", overwrite=True) == "a.replaced"
    assert offline(volume, first, "a", "a", overwrite=True) == "a.replaced-2"
    opened = volume.open("there")
    assert [content(opened, one) for one in ("a", "a.replaced", "a.replaced-2")] == ["one", "two", "one"]


def test_a_name_that_came_meanwhile_is_not_replaced(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "a", "one")
    publish(opened, "before")
    reply = answer(opened, "restore-path", {"snapshot": "before", "path": "a", "folder": ""})
    with pytest.raises(FileSystemError) as caught:
        opened.filesystem.rename(ROOT, reply["name"].encode(), ROOT, b"a", RenameFlag.NOREPLACE)
    assert caught.value.errno == errno.EEXIST


def test_file_capabilities_that_come_back_are_made_known(volume: Volume) -> None:
    opened = volume.open()
    write(opened, "tool", "x")
    number = opened.filesystem.lookup(ROOT, b"tool").number
    opened.filesystem.setxattr(number, b"security.capability", b"\x01\x00\x00\x02" + bytes(16))
    publish(opened, "before")
    told: list[str] = []
    opened.filesystem.xattrs.on_capability_restored = lambda: told.append("yes")
    restore(opened, "before", "tool", "back")
    assert told == ["yes"]
