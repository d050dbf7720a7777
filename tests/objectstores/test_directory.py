# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in a directory beyond the contract: files, durability, other files in it, system errors."""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from cas3fs.errors import (
    AccessDenied,
    DeleteFailed,
    ObjectExists,
    ObjectMissing,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreRefused,
    UsageError,
)
from cas3fs.objectstores.directory import PARTIAL, DirectoryStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture
def store(root: Path) -> Iterator[DirectoryStore]:
    with closing(DirectoryStore(root)) as store:
        yield store


def keys(store: DirectoryStore) -> list[str]:
    return [info.key for info in store.list()]


def fail_with(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_an_object_is_a_file_with_the_same_bytes(store: DirectoryStore, root: Path) -> None:
    store.put_if_absent("packs/00000007/3f9c", b"bytes", {"kind": "pack"})
    assert (root / "packs/00000007/3f9c").read_bytes() == b"bytes"


def modes(root: Path) -> dict[str, int]:
    """The modes of everything in a store."""
    return {path.relative_to(root).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.promise("a-directory-store-is-private")
def test_only_the_owner_can_read_it(store: DirectoryStore, root: Path, umask: None) -> None:
    store.put_if_absent("packs/7/3f9c", b"bytes")
    assert modes(root) == {PARTIAL: 0o700, "packs": 0o700, "packs/7": 0o700, "packs/7/3f9c": 0o600}
    root.chmod(0o755)
    assert store.permission_warning() == ""


@pytest.mark.promise("a-directory-store-is-private")
def test_the_group_can_read_a_shared_store(store: DirectoryStore, root: Path, umask: None) -> None:
    store.share_with_group()
    store.put_if_absent("packs/a", b"bytes")
    with closing(DirectoryStore(root)) as again:
        again.put_if_absent("pages/b", b"bytes")
        root.chmod(0o755)
        assert again.permission_warning() == ""
    folders, files = (PARTIAL, "packs", "pages"), ("packs/a", "pages/b")
    assert modes(root) == dict.fromkeys(folders, 0o750) | dict.fromkeys(files, 0o640)
    with pytest.raises(UsageError, match="by hand"):
        store.share_with_group()


@pytest.mark.promise("a-directory-store-is-private")
@pytest.mark.parametrize(
    ("top", "inner", "words"),
    [
        (0o755, 0o755, "by everybody"),
        (0o755, 0o750, "by its group"),
        (0o750, 0o755, "by its group"),
        (0o700, 0o755, ""),
        (0o755, 0o700, ""),
    ],
)
def test_a_store_that_others_can_read_warns(
    store: DirectoryStore, root: Path, top: int, inner: int, words: str
) -> None:
    store.put_if_absent("packs/a", b"bytes")
    (root / "link").symlink_to("anywhere")
    (root / "packs").chmod(inner)
    root.chmod(top)
    assert words in store.permission_warning()
    assert bool(store.permission_warning()) == bool(words)
    assert not store.permission_warning() or "chmod -R" in store.permission_warning()


def test_a_file_that_another_tool_copied_in_is_an_object(store: DirectoryStore, root: Path) -> None:
    (root / "packs").mkdir()
    (root / "packs" / "3f9c").write_bytes(b"bytes")
    assert store.get("packs/3f9c") == b"bytes"
    assert keys(store) == ["packs/3f9c"]
    assert store.head("packs/3f9c").metadata == {}


def test_metadata_are_in_an_extended_attribute_or_dropped(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "setxattr", fail_with(errno.EOPNOTSUPP))
    store.put_if_absent("a", b"bytes", {"kind": "pack"})
    assert store.head("a").metadata == {}
    assert store.get("a") == b"bytes"


@pytest.mark.parametrize("value", [b"{", b"[1]", b"\xff"])
def test_an_invalid_attribute_is_ignored(monkeypatch: pytest.MonkeyPatch, store: DirectoryStore, value: bytes) -> None:
    store.put_if_absent("a", b"bytes")
    monkeypatch.setattr(os, "getxattr", lambda *_: value)
    assert store.head("a").metadata == {}


def test_other_files_are_neither_listed_nor_read(store: DirectoryStore, root: Path) -> None:
    store.put_if_absent("a", b"")
    (root / "lost+found").mkdir(mode=0)
    (root / ".hidden").write_bytes(b"")
    (root / "with space").write_bytes(b"")
    (root / os.fsdecode(b"\xff")).write_bytes(b"")
    (root / "link").symlink_to("a")
    (root / "folder-link").symlink_to("/etc")
    os.mkfifo(root / "fifo")
    assert keys(store) == ["a"]
    for key in ("link", "fifo", "folder"):
        with pytest.raises(ObjectMissing):
            store.get(key)


LINKED = {
    "put": lambda store: store.put_if_absent("packs/1/new", b"bytes"),
    "get": lambda store: store.get("packs/1/old"),
    "get_range": lambda store: store.get_range("packs/1/old", 0, 1),
    "head": lambda store: store.head("packs/1/old"),
    "list": lambda store: list(store.list("packs/")),
    "list deeper": lambda store: list(store.list("packs/1/")),
    "delete": lambda store: store.delete_many(["packs/1/old"]),
}


@pytest.mark.parametrize("depth", ["packs", "packs/1"])
@pytest.mark.parametrize("action", LINKED.values(), ids=LINKED.keys())
def test_a_symbolic_link_to_a_folder_is_not_followed(
    store: DirectoryStore, root: Path, tmp_path: Path, action: Callable[[DirectoryStore], object], depth: str
) -> None:
    outside = tmp_path / "outside"
    for folder in (outside, outside / "1"):
        folder.mkdir()
        (folder / "old").write_bytes(b"mine")
    (root / depth).parent.mkdir(exist_ok=True)
    (root / depth).symlink_to(outside)
    before = sorted(outside.rglob("*"))
    if action is LINKED["list"] and depth == "packs/1":
        assert action(store) == []  # it is foreign there, as any file
    else:
        with pytest.raises(StoreRefused, match="symbolic link"):
            action(store)
    assert sorted(outside.rglob("*")) == before


def test_a_folder_of_partial_files_that_is_a_symbolic_link_is_refused(
    store: DirectoryStore, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / PARTIAL).symlink_to(outside)
    for _ in range(2):
        with pytest.raises(StoreRefused, match="symbolic link"):
            store.put_if_absent("a", b"bytes")
    assert list(outside.iterdir()) == []


def test_a_put_that_fails_leaves_nothing(store: DirectoryStore, root: Path) -> None:
    class Broken(BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(errno.EIO, "the source broke")

    with pytest.raises(StoreRefused, match="the source broke"):
        store.put_if_absent("a", Broken(b"x" * 10))
    assert list(root.rglob("*")) == [root / PARTIAL]


def test_leftovers_of_more_than_a_day_are_removed_and_younger_ones_kept(store: DirectoryStore, root: Path) -> None:
    (root / PARTIAL).mkdir()
    old, young = root / PARTIAL / "old", root / PARTIAL / "young"
    old.write_bytes(b"")
    young.write_bytes(b"")
    two_days_ago = time.time() - 48 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    store.put_if_absent("a", b"")
    assert list((root / PARTIAL).iterdir()) == [young]
    assert keys(store) == ["a"]


@pytest.mark.promise("stored-objects-are-durable")
def test_file_and_folders_are_synced_before_a_put_returns(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(root)).partition("/")[0])
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store.put_if_absent("a/b/1", b"")
    assert synced == [PARTIAL, ".", "a", "a"]  # the file, the folder of a, the folder of b, the folder of 1
    synced.clear()
    store.put_if_absent("a/b/2", b"")
    assert synced == [PARTIAL, "a"]
    synced.clear()
    with pytest.raises(ObjectExists):
        store.put_if_absent("a/b/2", b"")
    assert synced == [PARTIAL, "a"]  # who put it may not have come to its sync


def test_a_name_whose_sync_failed_is_removed(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_if_absent("a/1", b"")
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        if Path(f"/proc/self/fd/{descriptor}").readlink() == root / "a":
            raise OSError(errno.EIO, "the disk has lost a write")

    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError):
            store.put_if_absent("a/2", b"bytes")
    assert keys(store) == ["a/1"]
    store.put_if_absent("a/2", b"bytes")
    assert store.get("a/2") == b"bytes"


def test_a_folder_that_was_removed_is_made_again(store: DirectoryStore, root: Path) -> None:
    store.put_if_absent("a/b/1", b"")
    store.delete_many(["a/b/1"])
    (root / "a/b").rmdir()
    (root / "a").rmdir()
    store.put_if_absent("a/b/2", b"bytes")
    assert store.get("a/b/2") == b"bytes"


def test_deleting_a_folder_deletes_nothing(store: DirectoryStore) -> None:
    store.put_if_absent("a/b", b"")
    store.delete_many(["a"])
    assert keys(store) == ["a/b"]


def test_files_that_cannot_be_deleted_are_named_and_the_rest_is_deleted(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in "abc":
        store.put_if_absent(key, b"")
    real_unlink = os.unlink

    def unlink(path: str, *, dir_fd: int) -> None:
        if path == "b":
            raise OSError(errno.EPERM, "Operation not permitted")
        real_unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(DeleteFailed, match="such as b: Operation not permitted") as caught:
        store.delete_many("abc")
    assert caught.value.keys == ("b",)
    assert keys(store) == ["b"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.ESTALE, StoreBusy),
        (errno.EMFILE, StoreBusy),
        (errno.EIO, StoreRefused),
    ],
)
def test_a_system_error_is_one_line_that_names_the_directory(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[StoreError]
) -> None:
    monkeypatch.setattr(os, "link", fail_with(number))
    with pytest.raises(expected) as caught:
        store.put_if_absent("a", b"")
    assert str(caught.value) == f"{root}: cannot put a: {os.strerror(number)}"
    assert list(root.rglob("*")) == [root / PARTIAL]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_a_clear_error(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", fail_with(number))
    with pytest.raises(
        StoreRefused, match=r"cannot make a hard link: .*immutable .*, or its file system has no hard links"
    ):
        store.put_if_absent("a", b"")


def test_an_error_while_listing_raises(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_if_absent("a/b", b"")
    monkeypatch.setattr(os, "scandir", fail_with(errno.EIO))
    with pytest.raises(StoreRefused, match="cannot list it"):
        list(store.list())


@pytest.mark.promise("looking-costs-what-there-is")
def test_a_listing_reads_each_folder_once_however_many_pages_it_has(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[object] = []
    scandir = os.scandir
    with closing(DirectoryStore(root, page_size=3)) as store:
        wanted = [f"{folder}/{number:02}" for folder in ("packs", "pages") for number in range(20)]
        for key in wanted:
            store.put_if_absent(key, b"")
        monkeypatch.setattr(os, "scandir", lambda folder: scans.append(folder) or scandir(folder))
        assert keys(store) == wanted
        assert len(scans) == 3  # the root and the two folders
        page = store.list_page("packs/")
        assert page.next_start is not None
        store.put_if_absent("packs/02x", b"")
        first, again = (store.list_page("packs/", page.next_start) for _ in range(2))
        assert [info.key for info in first.objects] == ["packs/03", "packs/04", "packs/05"]
        assert [info.key for info in again.objects] == ["packs/02x", "packs/03", "packs/04"]  # looked anew
        assert [info.key for info in store.list_page("pages/", page.next_start).objects] == wanted[20:23]


def test_a_directory_must_exist(tmp_path: Path) -> None:
    with pytest.raises(
        StoreMissing, match=r"no such directory: .*/none \(create it first, or mount the disk that it is on\)"
    ):
        DirectoryStore(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreMissing, match="not a directory"):
        DirectoryStore(tmp_path / "file")


def test_every_method_notices_a_removed_directory(store: DirectoryStore, root: Path) -> None:
    root.rmdir()
    root.mkdir()  # another one under that name
    for use in (lambda: store.put_if_absent("a", b""), lambda: store.get("a"), lambda: list(store.list())):
        with pytest.raises(StoreMissing, match="removed"):
            use()
    assert list(root.iterdir()) == []
