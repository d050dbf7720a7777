# SPDX-License-Identifier: GPL-3.0-or-later
"""fsck of whole volumes: through the process of a mount, without a claim, and with one."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from cas3fs.commands.fsck import check_open_volume, check_unmounted
from cas3fs.commands.gc import collect_unmounted
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckReply, FsckRequest
from cas3fs.errors import ControlError, SnapshotDamaged
from cas3fs.testing.store_damage import corrupt_object
from tests.commands.test_gc import NOW, read, silent, text
from tests.volume.conftest import Volume, packs, write

pytestmark = pytest.mark.encryption("plain", "encrypted")


def fsck(volume: Volume, host: str = "here", **args: Any) -> tuple[FsckReply, list[str]]:
    found: list[str] = []

    def take(told: Message) -> None:
        if "finding" in told:
            found.append(told["finding"]["code"])

    return check_unmounted(volume.store_settings, volume.folders(host), FsckRequest(**args), take), found


def lose_packs(volume: Volume) -> None:
    for key in packs(volume):
        (volume.root / "v" / key).unlink()


def test_an_open_volume_is_clean_while_files_wait_to_be_stored(volume: Volume) -> None:
    opened = volume.open("here")
    write(opened, "one", text(1))
    told = check_open_volume(opened, FsckRequest(verify_data=True), silent)
    assert told.status == 0
    with pytest.raises(ControlError, match="unmount it"):
        check_open_volume(opened, FsckRequest(repair=True), silent)


@pytest.mark.parametrize("host", ["here", "there"])
def test_a_closed_volume_is_clean_and_a_check_claims_nothing(volume: Volume, host: str) -> None:
    volume.use("here", one=text(1))
    before = {info.key for info in volume.shelf.store.list()}
    assert fsck(volume, host, verify_data=True)[0].status == 0
    assert {info.key for info in volume.shelf.store.list()} == before


def test_a_superseded_local_index_is_not_checked(volume: Volume) -> None:
    volume.use("here", one=text(1))
    before = packs(volume)
    newest = volume.use("there", two=text(2))
    (pack,) = packs(volume) - before
    volume.stored.delete_many([pack])
    told, found = fsck(volume, "here")
    assert (told.status, found) == (4, ["pack-missing"])
    assert newest in told.checked["index"]


def test_staged_bytes_that_are_gone_are_found_without_a_claim(volume: Volume) -> None:
    killed = volume.open("here")
    write(killed, "big", text(1) * 5)
    killed.filesystem.commit()
    killed.close()
    for path in (volume.state("here") / "staging").iterdir():
        path.unlink()
    told, found = fsck(volume)
    assert (told.status, found) == (4, ["staging-bytes-missing"])


def test_store_damage_is_repaired_and_reported_in_lost_and_found(encryption: str, volume: Volume) -> None:
    volume.use("here", one=text(1), two="2")
    corrupt_object(volume.stored, min(packs(volume)))
    damaged = 1 if encryption == "plain" else 2  # both are in one piece
    told, found = fsck(volume, verify_data=True)
    assert (told.status, told.codes, found) == (4, {"block-damaged": damaged}, ["block-damaged"] * damaged)
    told, _ = fsck(volume, verify_data=True, repair=True)
    assert (told.status, told.lost) == (1, damaged)
    assert fsck(volume, verify_data=True)[0].status == 0
    opened = volume.open("there")
    lost = opened.filesystem.lookup(1, b"lost+found")
    assert lost.is_directory


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
@pytest.mark.parametrize("repair", [False, True], ids=["told", "repaired"])
def test_files_of_a_lost_pack_are_healed_by_a_copy_after_a_check(volume: Volume, repair: bool) -> None:
    volume.use("here", photo=text(1), twin=text(1))
    lose_packs(volume)
    assert fsck(volume, repair=repair)[1] == (["pack-missing", "known-loss"] if repair else ["pack-missing"])
    volume.use("here", copy=text(1))
    assert not (volume.state("here") / "lost.json").exists()
    opened = volume.open("there")
    assert [read(opened, name) for name in ("photo", "twin", "copy")] == [text(1)] * 3


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
def test_a_check_of_an_open_volume_records_what_is_lost(volume: Volume) -> None:
    volume.use("here", photo=text(1))
    lose_packs(volume)
    opened = volume.open("here")
    assert check_open_volume(opened, FsckRequest(), silent).codes == {"pack-missing": 1}
    write(opened, "copy", text(1))
    opened.filesystem.store_all()
    assert read(opened, "photo") == text(1)
    assert check_open_volume(opened, FsckRequest(), silent).codes == {"snapshot-pack-missing": 1}


def test_an_unreadable_note_of_losses_prevents_no_mount(volume: Volume) -> None:
    volume.use("here", photo="1")
    note = volume.state("here") / "lost.json"
    note.write_text('{"packs": 3}')
    assert read(volume.open("here"), "photo") == "1"
    assert not note.exists()


def test_a_damaged_index_is_set_aside_and_the_head_restored(volume: Volume) -> None:
    volume.use("here", one=text(1))
    index = volume.state("here") / "index.sqlite"
    data = bytearray(index.read_bytes())
    data[4096 * 2 :] = b"\xff" * (len(data) - 4096 * 2)
    index.write_bytes(bytes(data))
    told, found = fsck(volume)
    assert (told.status, found[0]) == (4, "index-damaged")
    told, found = fsck(volume, repair=True)
    assert (told.status, found) == (1, ["index-damaged"])
    assert read(volume.open("here"), "one") == text(1)


def test_without_an_index_the_newest_whole_snapshot_is_checked(volume: Volume) -> None:
    older = volume.use("here", one=text(1))
    newest = volume.use("here", two="2")
    shutil.rmtree(volume.state("here"))
    Path(volume.root / "v" / "pages" / newest).unlink()
    told, found = fsck(volume)
    assert (told.status, found) == (4, ["pages-missing"])
    assert older in told.checked["index"]


@pytest.mark.parametrize("folder", ["pages", "snapshots"])
def test_a_repair_without_an_index_uses_a_whole_snapshot(volume: Volume, folder: str) -> None:
    older = volume.use("here", one=text(1))
    newest = volume.use("here", two=text(2))
    shutil.rmtree(volume.state("here"))
    corrupt_object(volume.stored, f"{folder}/{newest}")
    before = packs(volume)
    told, found = fsck(volume)
    code = "snapshot-unreadable" if folder == "pages" else "snapshot-damaged"
    assert (told.status, found) == (4, [code])
    assert older in told.checked["index"]
    told, found = fsck(volume, repair=True)
    assert (told.status, found) == (1, [code, "snapshot-put-aside"])
    assert volume.shelf.store.head(f"damaged/snapshots/{newest}").size
    told, found = fsck(volume, verify_data=True)
    assert (told.status, found) == (0, ["snapshot-put-aside"])
    collect_unmounted(volume.store_settings, volume.folders("here"), NOW, silent)
    assert before <= packs(volume)  # what only the snapshot that was quarantined names
    assert read(volume.open("there"), "one") == text(1)


def test_a_repair_without_any_whole_snapshot_changes_nothing(volume: Volume) -> None:
    only = volume.use("here", one=text(1))
    shutil.rmtree(volume.state("here"))
    corrupt_object(volume.stored, f"pages/{only}")
    before = {info.key for info in volume.shelf.store.list("snapshots/")}
    with pytest.raises(SnapshotDamaged, match="no snapshot is intact"):
        fsck(volume, repair=True)
    assert {info.key for info in volume.shelf.store.list("snapshots/")} == before
