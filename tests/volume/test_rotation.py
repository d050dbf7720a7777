# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that another process replaces while a volume is open for writing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.commands.gc import settings_of
from cas3fs.control.messages.maintenance import GcRequest
from cas3fs.encryption.sealing import SealHeader
from cas3fs.encryption.secret import KeyFile
from cas3fs.entries.shelf import Shelf
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.snapshots.retention import set_policy
from cas3fs.volume.gc_scheduler import GcScheduler

from .conftest import publish, read_all, write
from .sealed_volume import KEY, SealedVolume


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[SealedVolume]:
    made = SealedVolume(tmp_path)
    yield made
    made.close()


def generations(volume: SealedVolume, folder: str) -> list[int]:
    """With which generation of the key each object is sealed, in the order of names."""
    objects = [path for path in sorted((volume.store / folder).rglob("*")) if path.is_file()]
    return [SealHeader.decode(path.read_bytes()).generation for path in objects]


def test_a_writer_begins_to_use_a_new_generation_with_its_next_snapshot(volume: SealedVolume) -> None:
    opened = volume.open()
    write(opened, "first", "one")
    publish(opened)
    volume.rotate()
    for name in ("second", "third"):
        write(opened, name, name)
        publish(opened)
    assert generations(volume, "snapshots") == [1, 2, 2]
    assert sorted(generations(volume, "packs")) == [1, 2, 2]
    assert read_all(opened) == {"first": "one", "second": "second", "third": "third"}
    opened.finish()
    opened.close()
    again = volume.open("elsewhere")
    assert read_all(again) == {"first": "one", "second": "second", "third": "third"}


def test_a_writer_goes_on_with_its_keys_when_the_root_is_replaced(volume: SealedVolume) -> None:
    opened = volume.open()
    write(opened, "first", "one")
    publish(opened)
    volume.rotate(lambda keys: keys.keys.replace_root(keys.unlocked, [(KeyFile.of(KEY), "")]))
    write(opened, "second", "two")
    publish(opened)
    assert generations(volume, "snapshots") == [1, 1]
    opened.finish()
    opened.close()
    again = volume.open("elsewhere")
    assert read_all(again) == {"first": "one", "second": "two"}


def test_a_writer_whose_root_was_replaced_collects_garbage_and_stores_until_its_end(
    volume: SealedVolume, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot read what others seal with the new generation, such as a policy, until it is mounted again."""
    opened = volume.open()
    write(opened, "first", "one")
    publish(opened)
    volume.rotate()
    write(opened, "second", "two")
    publish(opened)
    volume.rotate(lambda keys: keys.keys.replace_root(keys.unlocked, [(KeyFile.of(KEY), "")]))
    set_policy(Shelf(volume.plain().store), RetentionPolicy(last=1), conditional_writes=True)
    rings = sorted((volume.store / "keyring").iterdir())
    for request in (GcRequest(grace_s=0), GcRequest(grace_s=0, reencrypt=True)):
        GcScheduler(opened).collect(settings_of(request), print)
    assert "rotate --root` has replaced it since the volume was opened" in caplog.text  # so the policy is not followed
    assert len(opened.archive.ids()) >= 2
    write(opened, "third", "three")
    publish(opened)
    opened.finish()
    opened.close()
    assert sorted((volume.store / "keyring").iterdir()) == rings
    again = volume.open("elsewhere")
    assert read_all(again) == {"first": "one", "second": "two", "third": "three"}
