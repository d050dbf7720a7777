# SPDX-License-Identifier: GPL-3.0-or-later
"""Making a volume, finding one, and what is told of it."""

import stat
from pathlib import Path

import pytest

from cas3fs.commands.mkfs import create_volume
from cas3fs.config import StoreSettings, VolumeSettings
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs, WriterIdentity
from cas3fs.errors import (
    ObjectExists,
    StoreMissing,
    StoreRefused,
    UsageError,
    VolumeExists,
    VolumeFormatError,
    VolumeMissing,
)
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore, urls
from cas3fs.objectstores.s3 import S3Store
from cas3fs.testing.fake_s3 import FakeS3
from cas3fs.testing.faults import FaultKind
from cas3fs.units import KIB
from cas3fs.volume.loading import load_volume, open_volume_store
from cas3fs.volume.location import normal_url
from tests.volume.conftest import Volume, read_all, stats_of


def test_a_volume_keeps_what_was_decided_when_it_was_made(tmp_path: Path) -> None:
    settings = StoreSettings(tmp_path.as_uri())
    made = create_volume(settings, VolumeSettings("fixed", 64 * KIB, 2048 * KIB, "none", "name"))
    entry = load_volume(open_volume_store(settings, Metrics())).entry
    assert (str(entry.uuid), entry.conditional_writes) == (made["uuid"], True)
    assert (entry.chunker, entry.block_size, entry.pack_size) == ("fixed", 65536, 2 << 20)
    assert (entry.compression, entry.label) == ("none", "name")


@pytest.mark.promise("conditional-writes-are-never-given-up")
def test_conditional_writes_are_never_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeS3("bucket")
    monkeypatch.setattr(urls, "_open_bare", lambda where, settings: S3Store("bucket", where.prefix, client=fake))
    settings = StoreSettings("s3://bucket/v")
    assert create_volume(settings, VolumeSettings())["fenced"]
    store = open_volume_store(settings, Metrics())
    load_volume(store)
    before = keys_of(store)
    identity = WriterIdentity("here", "user", 1)
    with fake.faults.on(FaultKind.CONDITION_REFUSED), pytest.raises(StoreRefused, match="501"):
        Epochs(Shelf(store)).claim(identity, tmp_path / "claim.json")
    assert keys_of(store) == before
    with fake.faults.on(FaultKind.CONDITION_REFUSED, times=1):  # it is asked again, under the condition
        assert Epochs(Shelf(store)).claim(identity, tmp_path / "claim.json").epoch == 1
    with pytest.raises(ObjectExists):
        store.put_if_absent("epochs/00000001", b"another")


def keys_of(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list()]


def test_a_volume_is_not_made_twice(volume: Volume) -> None:
    with pytest.raises(VolumeExists):
        create_volume(volume.store_settings, VolumeSettings())


@pytest.mark.promise("a-lost-volume-object-is-reported")
def test_no_volume_is_made_over_one_that_lost_its_own_object(
    volume: Volume,
) -> None:
    """A new one would show the old files, and pass over what a machine has not stored yet."""
    volume.use("here", file="text")
    own = volume.root / "v" / "volume"
    kept = own.read_bytes()
    own.unlink()
    with pytest.raises(VolumeMissing, match=r"has objects of a volume, .* lacks its object 'volume': put that back"):
        load_volume(volume.stored)
    with pytest.raises(VolumeExists, match=r"has objects of a volume, .* lacks its object 'volume': put that back"):
        create_volume(volume.store_settings, VolumeSettings())
    assert not own.exists()
    own.write_bytes(kept)
    opened = volume.open()
    assert read_all(opened) == {"file": "text"}


@pytest.mark.promise("a-directory-store-is-private")
def test_a_volume_that_others_can_read_is_reported(
    volume: Volume, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume.use("here", a="1")
    assert caplog.records == []
    (volume.root / "v").chmod(0o755)
    (volume.root / "v" / "packs").chmod(0o755)
    volume.use("here", b="2")
    assert any("can be read by everybody" in record.message for record in caplog.records)
    caplog.clear()
    (tmp_path / "open" / "data").mkdir(parents=True)
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "open" / "data").chmod(0o755)
    create_volume(StoreSettings((tmp_path / "open").as_uri()), VolumeSettings())
    assert any("can be read by everybody" in record.message for record in caplog.records)


def test_a_volume_whose_group_may_read_it(tmp_path: Path) -> None:
    create_volume(StoreSettings(tmp_path.as_uri()), VolumeSettings(group_readable=True))
    assert stat.S_IMODE((tmp_path / "volume").stat().st_mode) == 0o640
    with pytest.raises(UsageError, match="not a directory"):
        create_volume(StoreSettings("memory://x"), VolumeSettings(group_readable=True))


@pytest.mark.promise("surroundings-may-change")
@pytest.mark.parametrize("place", ["packs", "snapshots/deep/down", "epochs"])
def test_a_volume_is_not_made_among_the_objects_of_another(volume: Volume, place: str) -> None:
    inside = volume.root / "v" / place
    inside.mkdir(parents=True, exist_ok=True)
    with pytest.raises(VolumeExists, match="lies among the objects of the volume at file:"):
        create_volume(StoreSettings(inside.as_uri()), VolumeSettings())
    assert list(inside.iterdir()) == []


def test_a_volume_may_lie_beside_another_of_a_similar_name(volume: Volume, tmp_path: Path) -> None:
    for place in (volume.root / "v" / "beside", tmp_path / "packs"):
        place.mkdir()
        create_volume(StoreSettings(place.as_uri()), VolumeSettings())


@pytest.mark.parametrize(
    "settings",
    [
        VolumeSettings(block_size_bytes=0),
        VolumeSettings(block_size_bytes=1 << 40),
        VolumeSettings(chunker="guess"),
        VolumeSettings(compression="zip"),
        VolumeSettings(compression="zstd:99"),
        VolumeSettings(pack_size_bytes=100),
        VolumeSettings(pack_size_bytes=1 << 40),
    ],
)
def test_invalid_settings_are_refused_and_nothing_is_made(tmp_path: Path, settings: VolumeSettings) -> None:
    with pytest.raises(UsageError):
        create_volume(StoreSettings(tmp_path.as_uri()), settings)
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_a_volume_is_no_missing_store(tmp_path: Path) -> None:
    with pytest.raises(VolumeMissing, match="mkfs"):
        load_volume(open_volume_store(StoreSettings(tmp_path.as_uri()), Metrics()))
    with pytest.raises(StoreMissing):
        open_volume_store(StoreSettings((tmp_path / "nowhere").as_uri()), Metrics())


def test_a_damaged_volume_entry_is_told(volume: Volume) -> None:
    entry = volume.root / "v" / "volume"
    entry.chmod(0o600)
    entry.write_bytes(b"something else")
    with pytest.raises(VolumeFormatError, match="cannot be read"):
        load_volume(open_volume_store(volume.store_settings, Metrics()))


def test_a_url_has_one_spelling() -> None:
    assert normal_url("s3://bucket//a/") == normal_url("s3://bucket/a")
    assert normal_url("file:///x/") == normal_url("file:///x")


def test_an_unmounted_volume_has_the_figures_of_its_head(volume: Volume) -> None:
    empty = stats_of(volume, "here")
    assert (empty.files, empty.directories, empty.snapshot) == (0, 1, None)
    snapshot = volume.use("here", a="1" * 10_000, b="1" * 10_000)
    local = stats_of(volume, "here")
    assert stats_of(volume, "there") == local
    assert (local.files, local.logical_bytes, local.snapshot) == (2, 20_000, snapshot)
    assert local.dedup_ratio == 2
    assert local.compression_ratio > 10
