# SPDX-License-Identifier: GPL-3.0-or-later
"""A listing shows what each snapshot has added to the store, and what deleting it frees."""

import random

import pytest

from cas3fs.commands.gc import collect_unmounted
from cas3fs.commands.requests import mount_handlers
from cas3fs.commands.snapshot import list_unmounted
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import GcRequest
from cas3fs.control.messages.snapshots import ListSnapshotsRequest
from cas3fs.entries.kinds import PackEntry, PagesEntry
from cas3fs.filesystem import ROOT
from cas3fs.index import ordinal_of
from cas3fs.index.reader import PackLifetime
from cas3fs.maintenance.snapshot_sizes import snapshot_sizes
from cas3fs.values import SnapshotNumber
from tests.volume.conftest import Volume, delete_snapshots, service_of, write

pytestmark = pytest.mark.encryption("plain", "encrypted")

SIZE = 200_000


def text(seed: str) -> str:
    """A text that does not compress well, and shares nothing with others."""
    return random.Random(seed).randbytes(SIZE // 2).hex()


def silent(message: Message) -> None:
    """Nobody watches."""


def listed(volume: Volume, host: str = "here") -> list[Message]:
    found: list[Message] = []
    list_unmounted(volume.store_settings, volume.folders(host), ListSnapshotsRequest(), found.append)
    return [one["snapshot"] for one in found]


def stored_bytes(volume: Volume) -> int:
    """Of all packs and pages entries, as the store has them."""
    kinds = (PackEntry, PagesEntry)
    return sum(one.size for kind in kinds for one in volume.archive.shelf.store.list(kind.prefix()))


def collect(volume: Volume) -> None:
    collect_unmounted(volume.store_settings, volume.folders("here"), GcRequest(grace_s=0.0, min_live=0.0), silent)


def made_with_replaced_files(volume: Volume) -> list[str]:
    """Three snapshots, each with a file that the next lacks, and another that all have; a gc makes more of them."""
    volume.use("here", kept=text("kept"))
    made = [volume.use("here", first=text("first"))]
    for old, new in (("first", "second"), ("second", "third")):
        opened = volume.open()
        opened.filesystem.unlink(ROOT, old.encode())
        write(opened, new, text(new))
        made.append(str(opened.finish()))
        opened.close()
        collect(volume)
    return made


def test_deleting_a_snapshot_and_a_gc_free_what_the_listing_shows(volume: Volume) -> None:
    made = made_with_replaced_files(volume)
    sizes = {one["id"]: one for one in listed(volume)}
    assert sizes[made[0]]["frees_bytes"] > SIZE // 2
    for one in made[:2]:
        collect(volume)  # what a snapshot of its own adds is not counted below
        before, expected = stored_bytes(volume), {each["id"]: each for each in listed(volume)}[one]["frees_bytes"]
        delete_snapshots(volume, "here", one)
        collected_before = listed(volume)[-1]["id"]
        collect(volume)
        grown = sum(each["new_index_bytes"] for each in listed(volume) if each["id"] > collected_before)
        assert before - stored_bytes(volume) + grown == expected


def test_what_all_snapshots_added_is_what_the_store_has(volume: Volume) -> None:
    made_with_replaced_files(volume)
    found = listed(volume)
    assert sum(one["added_bytes"] for one in found) == stored_bytes(volume)
    assert found[0]["added_bytes"] > SIZE // 2


def test_the_newest_snapshot_frees_nothing(volume: Volume) -> None:
    volume.use("here", a=text("a"))
    volume.use("here", b=text("b"))
    assert listed(volume)[-1]["frees_bytes"] is None
    assert listed(volume)[-1]["added_bytes"] > SIZE // 2


def test_a_machine_that_does_not_have_the_newest_index_does_not_guess(volume: Volume) -> None:
    volume.use("here", a=text("a"))
    volume.use("there", b=text("b"))
    assert {one["added_bytes"] for one in listed(volume, "here")} == {None}
    assert {one["frees_bytes"] for one in listed(volume, "elsewhere")} == {None}
    assert None not in {one["added_bytes"] for one in listed(volume, "there")}


def test_the_process_of_a_mount_knows_the_sizes(volume: Volume) -> None:
    volume.use("here", a=text("a"))
    opened = volume.open()
    found: list[Message] = []
    mount_handlers(service_of(opened))["snapshots"]({}, found.append)
    assert found[0]["snapshot"]["added_bytes"] > SIZE // 2


def test_a_view_of_an_older_snapshot_does_not_know_them(volume: Volume) -> None:
    volume.use("here", a=text("a"))
    view = volume.view()
    handlers = mount_handlers(service_of(view))
    found: list[Message] = []
    handlers["snapshots"]({}, found.append)
    assert found[0]["snapshot"]["added_bytes"] > SIZE // 2
    volume.use("here", b=text("b"))
    found.clear()
    handlers["snapshots"]({}, found.append)
    assert {one["snapshot"]["added_bytes"] for one in found} == {None}


def test_an_unreadable_snapshot_still_needs_its_packs(volume: Volume) -> None:
    made = [volume.use("here", a=text("a")), volume.use("here", b=text("b")), volume.use("here", c=text("c"))]
    readable = [one for one in volume.archive.list() if one.id != made[1]]
    first, second, third = (ordinal_of(SnapshotNumber.parse(one)) for one in made)
    lifetimes = [
        PackLifetime(first, second, 1),
        PackLifetime(first, third, 10),
        PackLifetime(second, third, 100),
        PackLifetime(second, None, 1000),
        PackLifetime(third + 1, None, 10_000),
    ]
    pages = snapshot_sizes(readable, made[1:2], [])
    sizes = snapshot_sizes(readable, made[1:2], lifetimes)
    difference = {one: [new - old for new, old in zip(sizes[one], pages[one], strict=True)] for one in sizes}
    assert difference == {made[0]: [11, 1], made[2]: [0, 0]}
