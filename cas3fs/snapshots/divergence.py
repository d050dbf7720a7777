# SPDX-License-Identifier: GPL-3.0-or-later
"""The line of writers: which snapshots lead to the head, and which were published by a writer that had lost its turn.

A writer that takes over while another has not released cannot know whether that one is still at work. It lists the
snapshots once, and writes down, beside its claim, which one it goes on from: the *base*. What an earlier epoch
publishes after that base is *off the line*: it is never the head, and only a person deletes it, by its id.

The base is written before anything is restored, and before the first manifest of its epoch. A writer that died between
the claim and the base has published nothing, so whoever claims next lists anew, and writes the base that is missing.

A base that cannot be read tells which epoch went on, by its name, and not from where: then the head is what is the
newest anyway, and no snapshot of an earlier epoch is deleted but by a person.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import BASE_ID, BaseEntry, EpochEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.epoch_entries import list_epoch_keys
from cas3fs.errors import EntryError, ObjectExists, ObjectMissing
from cas3fs.values import SnapshotNumber

_SUFFIX: Final = SUB_SEPARATOR + BASE_ID
_BEFORE_ALL: Final = SnapshotNumber(0, 0)


class TakeoverBase(NamedTuple):
    """Epoch `epoch` went on from snapshot `start`; None where that is not known, as the entry is damaged or lost."""

    epoch: int
    start: SnapshotNumber | None


class TakeoverBases:
    """The bases of a volume, each of which is read once.

    Not locked: two threads that read the same base at once read the same.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._known: dict[str, TakeoverBase] = {}
        self._is_complete = False

    def set_known_epochs(self, epochs: Iterable[int]) -> None:
        """These are all, up to an epoch of one's own: they are asked for by name, and never listed.

        Raises:
            StoreError: the store failed.
        """
        for epoch in epochs:
            key = EpochEntry.key_of(f"{epoch:08d}")
            self._known[key] = _load(self._shelf, key) or TakeoverBase(epoch, None)
        self._is_complete = True

    def write(self, claim_key: str, epoch: int, snapshot: str | None) -> None:
        """As `write_takeover_base`."""
        write_takeover_base(self._shelf, claim_key, epoch, snapshot)
        self._known[claim_key] = _load(self._shelf, claim_key) or TakeoverBase(epoch, None)

    def all(self) -> tuple[TakeoverBase, ...]:
        """All of them, ascending; one LIST, unless they are known, and a GET for each that is new.

        Raises:
            StoreError: the store failed.
        """
        listed = () if self._is_complete else list_epoch_keys(self._shelf)
        for key in (one.removesuffix(_SUFFIX) for one in listed if one.endswith(_SUFFIX)):
            if key not in self._known and (found := _load(self._shelf, key)) is not None:
                self._known[key] = found
        return tuple(sorted(self._known.values(), key=lambda one: one.epoch))


def read_takeover_bases(shelf: Shelf) -> tuple[TakeoverBase, ...]:
    """All bases; one LIST, and a GET for each time that a writer was taken over from.

    Raises:
        StoreError: the store failed.
    """
    return TakeoverBases(shelf).all()


def write_takeover_base(shelf: Shelf, claim_key: str, epoch: int, snapshot: str | None) -> None:
    """Write down that the claim of that key goes on from `snapshot`; a second time is fine."""
    try:
        shelf.save(BaseEntry(owner=claim_key, epoch=epoch, snapshot=snapshot))
    except ObjectExists:
        return


def is_diverged(number: SnapshotNumber, bases: Iterable[TakeoverBase]) -> bool:
    """Whether a snapshot was published by a writer that had been taken over from."""
    return any(base.start is not None and number.epoch < base.epoch and number > base.start for base in bases)


def may_be_diverged(number: SnapshotNumber, bases: Iterable[TakeoverBase]) -> bool:
    """Whether a snapshot is off the line, or may be as far as is known, since a base cannot be read."""
    return any(number.epoch < base.epoch and (base.start is None or number > base.start) for base in bases)


def newest_undiverged(ids: Sequence[str], bases: Iterable[TakeoverBase]) -> str | None:
    """The newest of the snapshots `ids`, ascending, that is on the line, as far as is known."""
    known = tuple(bases)
    return next((one for one in reversed(ids) if not is_diverged(SnapshotNumber.parse(one), known)), None)


def _load(shelf: Shelf, key: str) -> TakeoverBase | None:
    """The base of the epoch of that key; None where there is none."""
    try:
        entry = shelf.load(BaseEntry, BASE_ID, key)
        return TakeoverBase(entry.epoch, SnapshotNumber.parse(entry.snapshot) if entry.snapshot else _BEFORE_ALL)
    except ObjectMissing:
        return None
    except (EntryError, ValueError):
        # The epoch is in the name.
        return TakeoverBase(int(key.removeprefix(EpochEntry.prefix()).partition("-")[0]), None)
