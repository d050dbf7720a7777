# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots that somebody's rules have moved to an archive: a machine that has the state goes on without them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.commands.fsck import check_unmounted
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckRequest
from cas3fs.errors import SnapshotArchived
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStores

from .conftest import Volume, read_all


@pytest.fixture
def volume(encryption: str, faulty_stores: FaultyStores, tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path)
    yield made
    made.close()


@pytest.mark.promise("surroundings-may-change")
@pytest.mark.parametrize("folder", ["snapshots", "pages"])
def test_the_machine_with_the_state_publishes_what_can_be_read(
    volume: Volume, faulty_stores: FaultyStores, folder: str
) -> None:
    before = volume.use("here", a="one")
    with faulty_stores.faults.on(FaultKind.ARCHIVED, keys=[f"{folder}/{before}"]):
        with pytest.raises(SnapshotArchived, match=f"{before}.* archive"):
            volume.open("there")
        assert volume.use("here", b="two") > before
        assert read_all(volume.open("there")) == {"a": "one", "b": "two"}


@pytest.mark.promise("surroundings-may-change")
def test_a_check_from_another_machine_names_it(volume: Volume, faulty_stores: FaultyStores) -> None:
    volume.use("here", a="one")
    key = f"snapshots/{volume.use('here', b='two')}"
    found: list[Message] = []
    with faulty_stores.faults.on(FaultKind.ARCHIVED, keys=[key]):
        check_unmounted(volume.store_settings, volume.folders("there"), FsckRequest(), found.append)
    told = [one["finding"] for one in found if "finding" in one]
    assert [(one["code"], one["touches"]) for one in told] == [("object-archived", {"object": key})]
