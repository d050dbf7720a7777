# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the entries of epochs by name. What is damaged is there all the same: its number is in its name."""

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import RELEASED_ID, EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.errors import EntryError, ObjectMissing, VolumeFormatError
from cas3fs.values import LARGEST_EPOCH

_NAME = re.compile(r"([0-9]{8,10})(-[0-9a-f]{32})?\Z")
_LIKE_A_NAME = re.compile(r"[0-9]+(-[0-9a-f]*)?\Z")
_log = logging.getLogger(__name__)
RELEASE_SUFFIX: Final = SUB_SEPARATOR + RELEASED_ID
_NOBODY: Final = UUID(int=0)
_UNKNOWN: Final = "unknown"
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)


class EpochState(NamedTuple):
    """An epoch as the store shows it."""

    entry: EpochEntry
    """A claim of nobody where it could not be read."""
    released: bool
    release: ReleaseEntry | None = None
    """None too where it could not be read."""
    damage: str = ""
    """Why the entry cannot be read; empty where it can."""


def list_epoch_keys(shelf: Shelf, start_after: str = "", *, warn: bool = False) -> Iterator[str]:
    """The keys of epochs and their sub-entries after `start_after`, without what somebody else has put there.

    Raises:
        StoreError: the store failed.
    """
    for info in shelf.store.list(EpochEntry.prefix(), start_after):
        if not is_foreign_key(info.key):
            yield info.key
        elif warn:
            _log.warning("%s has an object %s, which is none of cas3fs and is passed over", shelf.store.url, info.key)


def read_epoch(shelf: Shelf, key: str) -> EpochState | None:
    """The epoch of that key and its release; None where there is none (any more).

    Raises:
        StoreError: the store failed.
    """
    try:
        entry, damage = shelf.load(EpochEntry, key.removeprefix(EpochEntry.prefix())), ""
    except ObjectMissing:
        return None
    except EntryError as error:
        entry, damage = _of_nobody(key), str(error)
    released, release = read_release(shelf, key)
    return EpochState(entry, released, release, damage)


def read_epoch_entry(shelf: Shelf, key: str) -> EpochEntry | None:
    """As `read_epoch`, without the release."""
    try:
        return shelf.load(EpochEntry, key.removeprefix(EpochEntry.prefix()))
    except ObjectMissing:
        return None
    except EntryError:
        return _of_nobody(key)


def read_release(shelf: Shelf, key: str) -> tuple[bool, ReleaseEntry | None]:
    """Whether the epoch of that key is released, and its release where that can be read."""
    try:
        return True, shelf.load(ReleaseEntry, RELEASED_ID, key)
    except ObjectMissing:
        return False, None
    except EntryError:
        return True, None


def is_placeholder(entry: EpochEntry) -> bool:
    """Whether this stands for an entry that could not be read."""
    return entry.claim == _NOBODY


def _of_nobody(key: str) -> EpochEntry:
    """In place of an entry that cannot be read: a claim of nobody that anybody knows."""
    return EpochEntry(
        id=key.removeprefix(EpochEntry.prefix()),
        epoch=epoch_number(key),
        claim=_NOBODY,
        host=_UNKNOWN,
        user=_UNKNOWN,
        pid=0,
        time=_NO_TIME,
    )


def is_foreign_key(key: str) -> bool:
    """Whether no version of cas3fs put the object `key`, which lies where epochs do: nothing depends on it."""
    name = key.removeprefix(EpochEntry.prefix()).partition(SUB_SEPARATOR)[0]
    return _LIKE_A_NAME.match(name) is None


def epoch_number(key: str) -> int:
    """The number of the epoch that `key`, of an epoch or its sub-entry, belongs to."""
    name = key.removeprefix(EpochEntry.prefix()).partition(SUB_SEPARATOR)[0]
    match = _NAME.match(name)
    if match is None or not int(match[1]) < LARGEST_EPOCH:
        raise VolumeFormatError(f"{key} is no epoch that this version of cas3fs knows: was it made by a newer one?")
    return int(match[1])
