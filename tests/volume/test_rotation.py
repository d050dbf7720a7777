# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that another process replaces while a volume is open for writing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.encryption.sealing import SealHeader
from cas3fs.encryption.secret import KeyFile

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
