# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots are looked into without a mount: folders, names, versions and differences."""

import os
from collections.abc import Mapping
from typing import Any

import pytest

from cas3fs.commands.browse import Looking, diff, find, history, list_folder
from cas3fs.entries.kinds import PagesEntry
from cas3fs.errors import SnapshotError, SnapshotMissing
from cas3fs.filesystem import ROOT, Owner
from cas3fs.volume.opening import OpenVolume
from tests.volume.conftest import Volume, write

pytestmark = pytest.mark.encryption("plain", "encrypted")


def looking(volume: Volume, host: str = "here", damaged: dict[str, str] | None = None) -> Looking:
    told = {} if damaged is None else damaged
    return Looking(
        volume.store_settings,
        volume.folders(host),
        on_damaged=lambda one, error: told.update({one: type(error).__name__}),
    )


def overwrite(opened: OpenVolume, name: str, text: str) -> None:
    fs = opened.filesystem
    handle = fs.open(fs.lookup(ROOT, name.encode()).number, os.O_RDWR, Owner())
    fs.write(handle, 0, text.encode())
    fs.release(handle)


def publish(opened: OpenVolume, name: str | None = None) -> str:
    assert opened.publisher is not None
    return opened.publisher.publish(name=name)


@pytest.fixture
def opened(volume: Volume) -> OpenVolume:
    """A volume with a folder, a file in it, and one beside it."""
    opened = volume.open()
    folder = opened.filesystem.mkdir(ROOT, b"folder", 0o750, Owner())
    write(opened, "letter.txt", "one")
    opened.filesystem.symlink(folder.number, b"to", b"../letter.txt", Owner())
    return opened


def shown(one: Mapping[str, Any]) -> str:
    return f"{one['change']} {one['path']}"


def test_a_folder_is_listed_as_the_snapshot_has_it(volume: Volume, opened: OpenVolume) -> None:
    publish(opened, "before")
    opened.filesystem.unlink(ROOT, b"letter.txt")
    publish(opened)
    entries = {one["name"]: one for one in list_folder(looking(volume), "before", "")}
    assert list(entries) == ["folder", "letter.txt"]
    assert (entries["folder"]["type"], entries["folder"]["mode"]) == ("directory", 0o750)
    assert (entries["letter.txt"]["type"], entries["letter.txt"]["size"]) == ("file", 3)
    assert [one["target"] for one in list_folder(looking(volume), "before", "/folder/")] == ["../letter.txt"]
    assert [one["name"] for one in list_folder(looking(volume), "before", "folder/to")] == ["to"]
    assert [one["name"] for one in list_folder(looking(volume), "latest", "")] == ["folder"]
    with pytest.raises(SnapshotError, match=r"has no letter\.txt"):
        list(list_folder(looking(volume), "latest", "letter.txt"))


def test_any_machine_can_look_while_the_volume_is_in_use(volume: Volume, opened: OpenVolume) -> None:
    publish(opened)
    assert [one["name"] for one in list_folder(looking(volume, "there"), "latest", "")] == ["folder", "letter.txt"]
    assert list(volume.state("there").glob("views/*")) == []


def test_a_name_is_found_in_the_snapshots_that_have_it(volume: Volume, opened: OpenVolume) -> None:
    first = publish(opened)
    write(opened, "later.txt", "")
    second = publish(opened)
    opened.filesystem.unlink(ROOT, b"letter.txt")
    third = publish(opened)
    found = {one["path"]: [each["id"] for each in one["snapshots"]] for one in find(looking(volume), "*.txt")}
    assert found == {"later.txt": [second, third], "letter.txt": [first, second]}
    assert [one["path"] for one in find(looking(volume), "*.txt", third)] == ["later.txt"]
    assert [one["path"] for one in find(looking(volume), "fold*/t?")] == ["folder/to"]
    assert [one["path"] for one in find(looking(volume), "t*", below="folder")] == ["folder/to"]
    assert find(looking(volume), "t*", below="fold") == []


def test_a_version_lasts_as_long_as_consecutive_snapshots_have_it(volume: Volume, opened: OpenVolume) -> None:
    ids = [publish(opened)]
    write(opened, "other", "")
    ids.append(publish(opened))
    overwrite(opened, "letter.txt", "three")
    ids.append(publish(opened))
    opened.filesystem.unlink(ROOT, b"letter.txt")
    ids.append(publish(opened))
    write(opened, "letter.txt", "x")
    ids.append(publish(opened))
    versions = list(history(looking(volume), "letter.txt"))
    assert [(one["first"]["id"], one["last"]["id"], one["size"], one["in_newest"]) for one in versions] == [
        (ids[4], ids[4], 1, True),
        (ids[2], ids[2], 5, False),
        (ids[0], ids[1], 3, False),
    ]
    with pytest.raises(SnapshotError, match="no snapshot has nothing"):
        list(history(looking(volume), "nothing"))


def test_same_size_and_time_but_other_bytes_are_another_version(volume: Volume, opened: OpenVolume) -> None:
    publish(opened)
    fs = opened.filesystem
    number = fs.lookup(ROOT, b"letter.txt").number
    before = fs.getattr(number)
    overwrite(opened, "letter.txt", "two")
    fs.setattr(number, Owner(), mtime_ns=before.mtime_ns)
    publish(opened)
    sizes = [(one["size"], one["mtime"]) for one in history(looking(volume), "letter.txt")]
    assert len(sizes) == 2
    assert len(set(sizes)) == 1


def test_two_snapshots_are_compared(volume: Volume, opened: OpenVolume) -> None:
    publish(opened, "before")
    overwrite(opened, "letter.txt", "other")
    write(opened, "new", "")
    publish(opened, "after")
    assert [shown(one) for one in diff(looking(volume), "before", "after")] == ["changed letter.txt", "added new"]
    assert [shown(one) for one in diff(looking(volume), "after", "before")] == ["changed letter.txt", "removed new"]
    assert [shown(one) for one in diff(looking(volume), "before", "after", "/new")] == ["added new"]
    assert list(diff(looking(volume), "after", "latest")) == []
    changed = next(iter(diff(looking(volume), "before", "after")))
    assert (changed["old"]["size"], changed["new"]["size"], changed["content"]) == (3, 5, True)
    with pytest.raises(SnapshotMissing):
        list(diff(looking(volume), "00000009-0000000001", "after"))


def test_a_damaged_snapshot_is_left_out_and_named(volume: Volume, opened: OpenVolume) -> None:
    first = publish(opened)
    write(opened, "new", "x" * 100_000)
    hurt = publish(opened)
    last = publish(opened, "last")
    (volume.root / "v" / PagesEntry.key_of(hurt)).unlink()
    damaged: dict[str, str] = {}
    versions = list(history(looking(volume, "there", damaged), "letter.txt"))
    assert [(one["first"]["id"], one["last"]["id"]) for one in versions] == [(first, first)]
    assert hurt in damaged
    assert set(damaged) <= {hurt, last}
