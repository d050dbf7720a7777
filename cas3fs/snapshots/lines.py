# SPDX-License-Identifier: GPL-3.0-or-later
"""The line of writers: which snapshots lead to the head, and which were published by a writer that had lost its turn.

A writer that takes over while another has not released cannot know whether that one is still at work. It lists the
snapshots once, and writes down, beside its claim, which one it goes on from: the *base*. What an earlier epoch
publishes after that base is *off the line*: it is never the head, and only a person deletes it, by its id.

The base is written before the first manifest of its epoch. A writer that died between the claim and the base has
published nothing, so whoever comes next lists anew.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import BASE_ID, BaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.reading import list_keys
from cas3fs.errors import EntryCorrupt, ObjectExists
from cas3fs.values import SnapshotNumber

_BEFORE_ALL: Final = SnapshotNumber(0, 0)


class Base(NamedTuple):
    """Epoch `epoch` went on from snapshot `start`."""

    epoch: int
    start: SnapshotNumber


def read_bases(shelf: Shelf) -> tuple[Base, ...]:
    """All bases; one LIST, and a GET for each time that a writer was taken over from.

    Raises:
        EntryError: one of them is damaged, so it cannot be told what is on the line.
        StoreError: the store failed.
    """
    suffix = SUB_SEPARATOR + BASE_ID
    keys = [key for key in list_keys(shelf) if key.endswith(suffix)]
    return tuple(_base(shelf.load(BaseEntry, BASE_ID, key.removesuffix(suffix))) for key in keys)


def write_base(shelf: Shelf, claim_key: str, epoch: int, snapshot: str | None) -> None:
    """Write down that the claim of that key goes on from `snapshot`; a second time is fine."""
    try:
        shelf.save(BaseEntry(owner=claim_key, epoch=epoch, snapshot=snapshot))
    except ObjectExists:
        return


def is_off_line(number: SnapshotNumber, bases: Iterable[Base]) -> bool:
    """Whether a snapshot was published by a writer that had been taken over from."""
    return any(number.epoch < base.epoch and number > base.start for base in bases)


def newest_on_line(ids: Sequence[str], bases: Iterable[Base]) -> str | None:
    """The newest of the snapshots `ids`, ascending, that is on the line."""
    known = tuple(bases)
    return next((one for one in reversed(ids) if not is_off_line(SnapshotNumber.parse(one), known)), None)


def _base(entry: BaseEntry) -> Base:
    try:
        return Base(entry.epoch, SnapshotNumber.parse(entry.snapshot) if entry.snapshot else _BEFORE_ALL)
    except ValueError as error:
        raise EntryCorrupt(f"{entry.key} names no snapshot: {error}") from error
