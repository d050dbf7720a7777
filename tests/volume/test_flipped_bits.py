# SPDX-License-Identifier: GPL-3.0-or-later
"""A bit of any object in the store has flipped: what is read is right, or an error names the object."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas3fs.commands.fsck import check_unmounted
from cas3fs.commands.gc import collect_unmounted
from cas3fs.control.messages.maintenance import FsckReply, FsckRequest, GcRequest
from cas3fs.errors import BlockError, Cas3fsError
from cas3fs.filesystem import ROOT, Owner
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.volume.opening import OpenVolume
from tests.volume.conftest import Volume, view_of, volume_policy, write

pytestmark = pytest.mark.encryption("plain")  # test_tampering does more to encrypted volumes

Tree = dict[str, tuple[int, int, int, bytes | str]]
"""By name: mode, size, time in nanoseconds, and the bytes, or the error of reading them."""


class Original:
    """A volume with objects of every kind, to be copied; and what its snapshots hold."""

    def __init__(self, root: Path) -> None:
        self.volume = volume = Volume(root)
        first = volume.use("here", text="some words " * 400, noise=os.urandom(3000).hex(), small="1")
        opened = volume.open("here")
        opened.filesystem.unlink(ROOT, b"small")
        write(opened, "later", "other words " * 90)
        opened.filesystem.commit()
        opened.close()  # without a release, so that the next writer takes over
        self._use_after_take_over()
        volume_policy(volume, RetentionPolicy(last=7))
        self.trees = {one: tree_of(view_of(volume, one, one)) for one in (first, volume.archive.ids()[-1])}
        volume.close()
        self.keys = sorted(info.key for info in volume.shelf.store.list())

    def _use_after_take_over(self) -> None:
        opened = self.volume.open("there", take_over=True)
        write(opened, "more", os.urandom(40).hex() * 50)
        opened.finish()
        opened.close()

    def copy(self, place: Path) -> Volume:
        """The volume again, with the state of all hosts; errors name a place of the same length."""
        shutil.copytree(self.volume.root, place)
        copied = Volume(place, place / "v")
        copied.made = self.volume.made
        return copied


def tree_of(opened: OpenVolume) -> Tree:
    """What is in the root, as far as it can be read."""
    filesystem, found = opened.filesystem, {}
    listing = filesystem.opendir(ROOT)
    for name, inode, _ in list(filesystem.readdir(listing, 0)):
        handle = filesystem.open(inode.number, os.O_RDONLY, Owner())
        data: bytes | str
        try:
            data = bytes(filesystem.read(handle, 0, 1 << 20))
        except BlockError as error:
            data = str(error)
        filesystem.release(handle)
        found[name.decode()] = (inode.mode, inode.size, inode.mtime_ns, data)
    filesystem.releasedir(listing)
    return found


def used(volume: Volume, host: str) -> Tree:
    """What a writer sees."""
    opened = volume.open(host)
    tree = tree_of(opened)
    opened.finish()
    opened.close()
    return tree


def collected(volume: Volume) -> None:
    collect_unmounted(volume.store_settings, volume.folders("collecting"), GcRequest(grace_s=0), lambda _: None)


def checked(volume: Volume) -> FsckReply:
    request = FsckRequest(verify_data=True)
    return check_unmounted(volume.store_settings, volume.folders("checking"), request, lambda _: None)


@pytest.fixture(scope="module")
def original(encryption: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Original]:
    made = Original(tmp_path_factory.mktemp("original"))
    yield made
    made.volume.close()


def is_named(key: str, error: str) -> bool:
    """Whether an error names the object, with its folder or by its id alone."""
    return key.rpartition("/")[2].partition(".")[0] in error


def assert_right(key: str, read: Callable[[], Tree], expected: Tree) -> bool:
    """What was read is what was stored, or an error names the object; whether all was read."""
    try:
        tree = read()
    except Cas3fsError as error:
        assert is_named(key, str(error)), error
        return False
    assert {name: one[:3] for name, one in tree.items()} == {name: one[:3] for name, one in expected.items()}
    failed = {name: one[3] for name, one in tree.items() if isinstance(one[3], str)}
    assert all(is_named(key, error) for error in failed.values()), failed
    assert all(one == expected[name] for name, one in tree.items() if name not in failed)
    return not failed


def may_pass_unnoticed(original: Original, key: str) -> bool:
    """Whether an object has bytes that nothing reads: those around segments and blocks, and a release that is not the
    last. A zstd frame has bits that change nothing in what it decompresses to."""
    last_release = max(one for one in original.keys if one.endswith(".released"))
    return key.startswith(("pages/", "packs/")) or (key.endswith(".released") and key != last_release)


@pytest.mark.promise("every-block-is-verified")
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_harmless_or_named(
    original: Original, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Every read of a view, of an older snapshot and of three writers; and a check finds what made a read fail."""
    key = data.draw(st.sampled_from(original.keys), "object")
    place = tmp_path_factory.mktemp("copy") / "a"
    volume = original.copy(place)
    body = bytearray(volume.stored.get(key))
    position = data.draw(st.integers(0, len(body) - 1), "byte")
    body[position] ^= 1 << data.draw(st.integers(0, 7), "bit")
    volume.stored.delete_many([key])
    volume.stored.put_if_absent(key, bytes(body))
    (first, before), (newest, now) = original.trees.items()
    try:
        is_whole = assert_right(key, lambda: tree_of(view_of(volume, newest, "v1")), now)
        is_whole &= assert_right(key, lambda: tree_of(view_of(volume, first, "v2")), before)
        try:
            assert checked(volume).status == 4 or (is_whole and may_pass_unnoticed(original, key))
            collected(volume)
        except Cas3fsError as error:
            assert is_named(key, str(error)), error
        for host in ("new", "there", "here"):
            assert_right(key, lambda host=host: used(volume, host), now)
        assert_right(key, lambda: tree_of(view_of(volume, first, "v3")), before)
    finally:
        volume.close()
        shutil.rmtree(place)
