# SPDX-License-Identifier: GPL-3.0-or-later
"""State is kept by volume and by place: copies of a store, and of a state directory, keep out of each other's way."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from cas3fs.commands.fsck import check_unmounted
from cas3fs.commands.rescue import find_endpoint, find_url
from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import Message, MountRecord
from cas3fs.control.messages.maintenance import FsckRequest
from cas3fs.errors import EpochHeld, StateInUse
from cas3fs.volume.location import (
    LOCATION_NAME,
    VolumeLocation,
    find_state_directory,
    location_of,
    lock_state_directory,
)

from .conftest import Volume, publish, read_all, write

S3 = StoreSettings("s3://bucket/v")


def silent(message: Message) -> None:
    """Nobody watches."""


def copied(volume: Volume) -> Volume:
    """The same machines, and a copy of the store."""
    shutil.copytree(volume.root / "v", volume.root / "w")
    return volume.at(volume.root / "w")


def check(volume: Volume) -> None:
    told = check_unmounted(volume.store_settings, volume.folders("here"), FsckRequest(verify_data=True), silent)
    assert (told.status, told.codes) == (0, {})


@pytest.mark.promise("an-index-belongs-to-its-store", "a-copied-volume-leaves-the-original-alone")
def test_a_copy_of_the_store_and_the_original_are_used_together(volume: Volume) -> None:
    first = volume.use("here", a="1")
    other = copied(volume)
    volume.use("here", b="of the original")
    other.use("here", c="of the copy")
    opened, opened_copy = volume.open("here"), other.open("here")
    assert read_all(opened) == {"a": "1", "b": "of the original"}
    assert read_all(opened_copy) == {"a": "1", "c": "of the copy"}
    assert opened.state.path != opened_copy.state.path
    for one in (opened, opened_copy):
        one.finish()
        one.close()
    check(volume)
    check(other)
    assert volume.archive.ids()[0] == other.archive.ids()[0] == first


@pytest.mark.promise("an-index-belongs-to-its-store")
def test_what_waits_for_the_original_never_goes_to_a_copy(volume: Volume) -> None:
    killed = volume.open("here")
    write(killed, "a", "1")
    publish(killed)
    write(killed, "b", "staged")
    killed.filesystem.commit()
    killed.close()
    other = copied(volume)
    with pytest.raises(EpochHeld):
        other.open("here")
    taken = other.open("here", take_over=True)
    assert read_all(taken) == {"a": "1"}
    taken.finish()
    taken.close()
    assert read_all(volume.open("here")) == {"a": "1", "b": "staged"}


@pytest.mark.promise("an-index-belongs-to-its-store")
def test_an_old_folder_belongs_to_the_url_that_was_mounted_last(volume: Volume) -> None:
    volume.use("here", a="1")
    state = volume.state("here")
    (state / LOCATION_NAME).unlink()
    MountRecord(volume.store_settings.url, str(volume.made["uuid"]), "/mnt", 1).save(state)
    other = copied(volume)
    assert read_all(other.open("here")) == {"a": "1"}
    opened = volume.open("here")
    assert opened.state.path == state
    assert json.loads((state / LOCATION_NAME).read_text())["url"] == volume.store_settings.url


def test_an_old_folder_never_mounted_belongs_to_who_comes_first(volume: Volume) -> None:
    volume.use("here", a="1")
    (volume.state("here") / LOCATION_NAME).unlink()
    assert volume.open("here").state.path == volume.state("here")


@pytest.mark.promise("an-index-belongs-to-its-store")
def test_a_copied_state_directory_waits_while_the_other_is_used(volume: Volume) -> None:
    opened = volume.open("here")
    write(opened, "a", "1")
    opened.filesystem.commit()
    shutil.copytree(volume.root / "here", volume.root / "copy")
    with pytest.raises(StateInUse, match=r"is a copy of .*here"):
        volume.open("copy")
    opened.close()
    assert read_all(volume.open("copy")) == {"a": "1"}


def test_a_state_directory_that_was_moved_goes_on(volume: Volume) -> None:
    killed = volume.open("here")
    write(killed, "a", "1")
    killed.filesystem.commit()
    killed.close()
    shutil.move(volume.root / "here", volume.root / "moved")
    assert read_all(volume.open("moved")) == {"a": "1"}


def test_a_folder_tells_where_it_belongs(volume: Volume) -> None:
    volume.use("here", a="1")
    assert find_url(volume.state("here")) == volume.store_settings.url


def test_a_place_is_a_url_and_an_endpoint(tmp_path: Path) -> None:
    assert location_of(S3, {}) == VolumeLocation("s3://bucket/v")
    named = attrs.evolve(S3, endpoint_url="HTTP://minio:9000/")
    assert location_of(named, {}) == VolumeLocation("s3://bucket/v", "http://minio:9000")
    assert location_of(S3, {"AWS_ENDPOINT_URL": "http://minio:9000"}) == location_of(named, {})
    amazon = attrs.evolve(S3, endpoint_url="https://s3.eu-central-1.amazonaws.com")
    assert location_of(amazon, {}) == location_of(S3, {})
    (tmp_path / "link").symlink_to(tmp_path)
    assert location_of(StoreSettings((tmp_path / "link").as_uri())) == location_of(StoreSettings(tmp_path.as_uri()))


def test_the_same_url_at_two_endpoints_is_two_places(tmp_path: Path) -> None:
    folders = LocalFolders(tmp_path / "state", tmp_path / "cache")
    at = [attrs.evolve(S3, endpoint_url=f"http://{host}:9000") for host in ("one", "two")]
    with (
        closing(lock_state_directory(folders, "u", at[0])) as first,
        closing(lock_state_directory(folders, "u", at[1])) as second,
    ):
        assert first.path == folders.state_of("u")
        assert second.path.name.startswith("u-")
        assert find_endpoint(second.path / "set-aside" / "now") == find_endpoint(second.path) == "http://two:9000"
        assert [find_state_directory(folders, "u", one) for one in at] == [first.path, second.path]
