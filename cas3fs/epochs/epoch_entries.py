# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the entries of epochs, by name. A damaged entry counts as an epoch all the same: its number is in its name."""

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

RELEASE_SUFFIX: Final = SUB_SEPARATOR + RELEASED_ID
_EPOCH_NAME: Final = re.compile(r"([0-9]{8,10})(-[0-9a-f]{32})?\Z")
_SIMILAR_NAME: Final = re.compile(r"[0-9]+(-[0-9a-f]*)?\Z")
_NOBODY: Final = UUID(int=0)
_UNKNOWN: Final = "unknown"
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
_log = logging.getLogger(__name__)


class EpochState(NamedTuple):
    """An epoch as the store shows it."""

    entry: EpochEntry
    """A placeholder without an owner if the entry could not be read."""
    released: bool
    release: ReleaseEntry | None = None
    """None also if it could not be read."""
    damage: str = ""
    """Why the entry cannot be read; empty if it can."""


def list_epoch_keys(shelf: Shelf, start_after: str = "", *, warn: bool = False) -> Iterator[str]:
    """Yield the keys of epochs and their sub-entries after `start_after`; skips foreign objects.

    Args:
        warn: log a warning for each foreign object.

    Raises:
        StoreError: the store failed.
    """
    for info in shelf.store.list(EpochEntry.prefix(), start_after):
        if not is_foreign_key(info.key):
            yield info.key
        elif warn:
            _log.warning("%s: ignored object %s, which cas3fs did not create", shelf.store.url, info.key)


def read_epoch(shelf: Shelf, key: str) -> EpochState | None:
    """Read an epoch and its release; return None if it does not exist (any more).

    Raises:
        StoreError: the store failed.
    """
    try:
        entry, damage = shelf.load(EpochEntry, key.removeprefix(EpochEntry.prefix())), ""
    except ObjectMissing:
        return None
    except EntryError as error:
        entry, damage = _placeholder(key), str(error)
    released, release = read_release(shelf, key)
    return EpochState(entry, released, release, damage)


def read_epoch_entry(shelf: Shelf, key: str) -> EpochEntry | None:
    """Read an epoch without its release; return None if it does not exist, and a placeholder if it is damaged."""
    try:
        return shelf.load(EpochEntry, key.removeprefix(EpochEntry.prefix()))
    except ObjectMissing:
        return None
    except EntryError:
        return _placeholder(key)


def read_release(shelf: Shelf, key: str) -> tuple[bool, ReleaseEntry | None]:
    """Return whether the epoch of that key is released, and its release if that can be read."""
    try:
        return True, shelf.load(ReleaseEntry, RELEASED_ID, key)
    except ObjectMissing:
        return False, None
    except EntryError:
        return True, None


def is_placeholder(entry: EpochEntry) -> bool:
    """Return whether `entry` stands for one that could not be read."""
    return entry.claim == _NOBODY


def is_replacement(entry: EpochEntry) -> bool:
    """Return whether a repair wrote `entry` in place of a damaged one: no process has the number 0."""
    return entry.pid == 0


def is_foreign_key(key: str) -> bool:
    """Return whether no version of cas3fs created the object `key`, which lies among the epochs."""
    name = key.removeprefix(EpochEntry.prefix()).partition(SUB_SEPARATOR)[0]
    return _SIMILAR_NAME.match(name) is None


def epoch_number(key: str) -> int:
    """Return the epoch number in `key`, the key of an epoch or of its sub-entry.

    Raises:
        VolumeFormatError: the key has another form.
    """
    name = key.removeprefix(EpochEntry.prefix()).partition(SUB_SEPARATOR)[0]
    match = _EPOCH_NAME.match(name)
    if match is None or not int(match[1]) < LARGEST_EPOCH:
        raise VolumeFormatError(f"this version of cas3fs does not know the epoch name {key}; use a newer version")
    return int(match[1])


def _placeholder(key: str) -> EpochEntry:
    """Return an entry without a known owner, in place of one that cannot be read."""
    return EpochEntry(
        id=key.removeprefix(EpochEntry.prefix()),
        epoch=epoch_number(key),
        claim=_NOBODY,
        host=_UNKNOWN,
        user=_UNKNOWN,
        pid=0,
        time=_NO_TIME,
    )
