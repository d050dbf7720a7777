# SPDX-License-Identifier: GPL-3.0-or-later
"""A copied volume gets an identity of its own, and neither it nor the original is hurt."""

import shutil

import pytest

from cas3fs.commands.fork import fork
from cas3fs.commands.fsck import check_unmounted
from cas3fs.commands.gc import collect_unmounted
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckRequest, GcRequest
from cas3fs.entries.kinds import ForkEntry
from cas3fs.errors import EpochHeld, VolumeFormatError
from cas3fs.volume.loading import load_volume
from tests.volume.conftest import Volume, publish, read_all, write

pytestmark = pytest.mark.encryption("plain", "encrypted")


def silent(message: Message) -> None:
    """Nobody watches."""


def copied(volume: Volume) -> Volume:
    """The same machines, and a copy of the store."""
    shutil.copytree(volume.root / "v", volume.root / "w")
    return volume.at(volume.root / "w")


def forked(volume: Volume, *, take_over: bool = False) -> None:
    volume.made = fork(volume.store_settings, take_over=take_over)


def check(volume: Volume) -> None:
    collect_unmounted(volume.store_settings, volume.folders("here"), GcRequest(grace_s=0), silent)
    told = check_unmounted(volume.store_settings, volume.folders("here"), FsckRequest(verify_data=True), silent)
    assert (told.status, told.codes) == (0, {})


@pytest.mark.promise("a-fork-has-its-own-uuid")
def test_a_copy_that_was_forked_and_the_original_live_on(volume: Volume) -> None:
    volume.use("here", a="1")
    other = copied(volume)
    before = (volume.root / "w" / "volume").read_bytes()
    forked(other)
    assert (volume.root / "w" / "volume").read_bytes() == before  # nothing is overwritten
    assert str(load_volume(other.stored).entry.uuid) == other.made["uuid"] != volume.made["uuid"]
    volume.use("here", b="of the original")
    other.use("here", c="of the copy")
    opened, opened_copy = volume.open("here"), other.open("here")
    assert read_all(opened) == {"a": "1", "b": "of the original"}
    assert read_all(opened_copy) == {"a": "1", "c": "of the copy"}
    assert [opened.state.path, opened_copy.state.path] == [volume.state("here"), other.state("here")]
    for one in (opened, opened_copy):
        one.finish()
        one.close()
    check(volume)
    check(other)


@pytest.mark.promise("a-fork-has-its-own-uuid")
def test_a_copy_of_a_mounted_volume_is_forked_by_a_take_over(volume: Volume) -> None:
    mounted = volume.open("here")
    write(mounted, "a", "1")
    publish(mounted)
    write(mounted, "b", "staged")
    mounted.filesystem.commit()
    other = copied(volume)
    with pytest.raises(EpochHeld, match="cas3fs fork --take-over"):
        forked(other)
    forked(other, take_over=True)
    assert other.use("here", c="of the copy") > volume.archive.ids()[-1]
    assert read_all(other.open("here")) == {"a": "1", "c": "of the copy"}
    write(mounted, "d", "still the writer")
    mounted.finish()
    mounted.close()
    assert read_all(volume.open("here")) == {"a": "1", "b": "staged", "d": "still the writer"}
    volume.close()
    check(volume)


def test_a_copy_of_a_copy_is_forked_again(volume: Volume) -> None:
    forked(volume)
    first = volume.made["uuid"]
    forked(volume)
    assert volume.made["was"] == first
    assert str(load_volume(volume.stored).entry.uuid) == volume.made["uuid"]
    assert [one.id for one in volume.shelf.list_entries(ForkEntry)] == ["00000001", "00000002"]


@pytest.mark.promise("a-fork-has-its-own-uuid")
def test_a_damaged_fork_never_uses_the_state_of_the_original(volume: Volume) -> None:
    forked(volume)
    path = volume.root / "v" / "forks" / "00000001"
    body = bytearray(path.read_bytes())
    body[40] ^= 1
    path.unlink()
    path.write_bytes(body)
    with pytest.raises(VolumeFormatError, match="identity"):
        volume.open("here")
