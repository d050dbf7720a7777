# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring an older snapshot around a head that is damaged: what the damaged one needs stays as long as it does."""

import os
import shutil
from pathlib import Path

import pytest

from cas3fs.commands.restore import restore_head
from cas3fs.config import WriterSettings
from cas3fs.errors import SnapshotDamaged
from cas3fs.filesystem import ROOT
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.testing.store_damage import corrupt_object
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.offline_writer import open_offline_writer
from cas3fs.volume.opening import open_view

from .conftest import Volume, packs, read_all, write
from .test_take_over import published, silent

pytestmark = pytest.mark.encryption("plain", "encrypted")


def shown(volume: Volume, snapshot: str) -> dict[str, str]:
    settings = WriterSettings(cache_size_bytes=0, read_only=True, snapshot=snapshot)
    opened = open_view(volume.store_settings, settings, volume.folders("viewer"))
    volume.closing(opened)
    opened.start(0)
    return read_all(opened)


def pages_of(volume: Volume, snapshot: str) -> Path:
    return volume.root / "v" / "pages" / snapshot


def made_with_a_damaged_head(volume: Volume) -> tuple[str, str, bytes]:
    """A snapshot and a later head, which names data of its own epoch and of one that has no snapshot any more; and the
    good bytes of the head's pages, which are damaged now."""
    first = volume.use("A", a=os.urandom(2000).hex())
    middle = volume.use("A", b=os.urandom(2000).hex())
    opened = volume.open("A")
    write(opened, "year", os.urandom(30_000).hex())
    head = opened.finish()
    opened.close()
    assert head is not None
    with open_offline_writer(volume.store_settings, volume.folders("A")) as turn:
        turn.pruner.delete([middle])
    shutil.rmtree(volume.state("A"))
    good = pages_of(volume, head).read_bytes()
    corrupt_object(volume.stored, f"pages/{head}")
    return first, head, good


@pytest.mark.promise("a-bypassed-head-is-kept")
@pytest.mark.parametrize("manifest", ["there", "lost for a time"])
def test_a_bypassed_head_can_be_restored_when_its_damage_passes(volume: Volume, manifest: str) -> None:
    first, head, good = made_with_a_damaged_head(volume)
    with pytest.raises(SnapshotDamaged, match="snapshot restore"):
        volume.open("B")
    path = volume.root / "v" / "snapshots" / head
    entry = path.read_bytes()
    if manifest == "lost for a time":
        path.unlink()
    made = restore_head(volume.accepting_rollback, volume.folders("B"), first, silent)
    assert volume.archive.load(made.id).bypassed == (head,)
    opened = volume.open("B")
    for number in range(3):
        write(opened, f"new{number}", os.urandom(500).hex())
        published(opened)
        GcScheduler(opened).collect(GcSettings(grace_s=0), silent)
        assert opened.publisher is not None
        with opened.publisher.exclusively():
            opened.publisher.pruner.prune(RetentionPolicy(last=1))
    opened.finish()
    opened.close()
    path.write_bytes(entry)
    pages_of(volume, head).write_bytes(good)
    assert set(shown(volume, head)) == {"a", "b", "year"}


@pytest.mark.promise("a-bypassed-head-is-kept")
def test_a_bypassed_head_is_shown_and_goes_when_it_is_deleted(volume: Volume) -> None:
    first, head, _ = made_with_a_damaged_head(volume)
    restore_head(volume.store_settings, volume.folders("B"), first, silent)
    opened = volume.open("B")
    before = packs(volume)
    GcScheduler(opened).collect(GcSettings(grace_s=0), silent)
    assert packs(volume) == before
    assert opened.publisher is not None
    with opened.publisher.exclusively():
        opened.publisher.pruner.delete([head])
    opened.filesystem.unlink(ROOT, b"a")
    assert opened.publisher.publish() is not None
    assert volume.archive.load(volume.archive.ids()[-1]).bypassed == ()
    GcScheduler(opened).collect(GcSettings(grace_s=0), silent)
    assert len(packs(volume)) < len(before)
