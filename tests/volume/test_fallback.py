# SPDX-License-Identifier: GPL-3.0-or-later
"""Beginning from an older snapshot, as the newest is damaged, after a gc that looked into that older one."""

import os
from pathlib import Path

import pytest

from cas3fs.commands.fsck import check_unmounted
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckRequest
from cas3fs.filesystem import ROOT, Owner
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume

from .conftest import Volume, packs, publish, write


def silent(_: Message) -> None:
    """Takes what is told on the way."""


def read(opened: OpenVolume, name: str) -> str:
    fs = opened.filesystem
    handle = fs.open(fs.lookup(ROOT, name.encode()).number, os.O_RDONLY, Owner())
    return bytes(fs.read(handle, 0, 1 << 20)).decode()


@pytest.mark.promise("a-fallback-trusts-no-deleted-pack")
@pytest.mark.parametrize("how", ["damaged", "lost"])
def test_freed_data_is_stored_again_when_it_is_written_again(volume: Volume, how: str) -> None:
    text = os.urandom(400_000).hex()
    opened = volume.open("A")
    write(opened, "big", text)
    first = publish(opened)
    before = packs(volume)
    opened.filesystem.unlink(ROOT, b"big")
    write(opened, "small", "s")
    publish(opened)
    assert opened.publisher is not None
    with opened.publisher.exclusively():
        opened.publisher.pruner.delete([first])
    GcScheduler(opened).collect(GcSettings(grace_s=0), silent)
    assert not before & packs(volume)
    newest = opened.finish()
    opened.close()
    manifest = Path(volume.root / "v" / "snapshots" / str(newest))
    if how == "damaged":
        manifest.write_bytes(manifest.read_bytes()[:-1])
    else:
        manifest.unlink()
    assert check_unmounted(volume.store_settings, volume.folders("B"), FsckRequest(repair=True), silent).status == 1
    volume.use("B", again=text)
    found = volume.open("C")
    assert (read(found, "small"), read(found, "again")) == ("s", text)
