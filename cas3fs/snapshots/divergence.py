# SPDX-License-Identifier: GPL-3.0-or-later
"""Divergence: which snapshots were published by a writer that had been taken over.

A writer that takes over cannot know whether the other one is still running. It lists the snapshots once, and records in
a sub-entry of its claim which one it continues from: the *base*. Any snapshot that an earlier epoch publishes after
that base has *diverged*: it is never the head, and only a person deletes it, by its id.

Order of writes: the claim, the base, then the first manifest of the epoch; nothing is restored before the base is
written. A writer that died between claim and base has published nothing, so the next writer lists the snapshots anew,
and writes the missing base.

The name of a damaged base shows which epoch took over, but not from which snapshot it continues. Then the head is
simply the newest snapshot, and only a person deletes snapshots of earlier epochs.
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
    """Epoch `epoch` continued from snapshot `start`; None if that is unknown because the entry is damaged or lost."""

    epoch: int
    start: SnapshotNumber | None


class TakeoverBases:
    """The bases of a volume, each read once.

    There is no lock: two threads that read the same base at once get the same.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._known: dict[str, TakeoverBase] = {}
        self._is_complete = False

    def set_known_epochs(self, epochs: Iterable[int]) -> None:
        """Read the bases of these epochs by name; there are no others up to our own epoch, so none are listed later.

        Raises:
            StoreError: the store failed.
        """
        for epoch in epochs:
            key = EpochEntry.key_of(f"{epoch:08d}")
            self._known[key] = _load(self._shelf, key) or TakeoverBase(epoch, None)
        self._is_complete = True

    def write(self, claim_key: str, epoch: int, snapshot: str | None) -> None:
        """Write a base, as `write_takeover_base` does."""
        write_takeover_base(self._shelf, claim_key, epoch, snapshot)
        self._known[claim_key] = _load(self._shelf, claim_key) or TakeoverBase(epoch, None)

    def all(self) -> tuple[TakeoverBase, ...]:
        """Return all bases, ascending; makes one LIST, unless all epochs are known, and a GET for each new base.

        Raises:
            StoreError: the store failed.
        """
        listed = () if self._is_complete else list_epoch_keys(self._shelf)
        for key in (one.removesuffix(_SUFFIX) for one in listed if one.endswith(_SUFFIX)):
            if key not in self._known and (found := _load(self._shelf, key)) is not None:
                self._known[key] = found
        return tuple(sorted(self._known.values(), key=lambda one: one.epoch))


def write_takeover_base(shelf: Shelf, claim_key: str, epoch: int, snapshot: str | None) -> None:
    """Record that the claim of that key continues from `snapshot`; an existing base stays as it is."""
    try:
        shelf.save(BaseEntry(owner=claim_key, epoch=epoch, snapshot=snapshot))
    except ObjectExists:
        return


def is_diverged(number: SnapshotNumber, bases: Iterable[TakeoverBase]) -> bool:
    """Return whether a snapshot was published by a writer that had been taken over."""
    return any(base.start is not None and number.epoch < base.epoch and number > base.start for base in bases)


def may_be_diverged(number: SnapshotNumber, bases: Iterable[TakeoverBase]) -> bool:
    """Return whether a snapshot has diverged, or may have because a base cannot be read."""
    return any(number.epoch < base.epoch and (base.start is None or number > base.start) for base in bases)


def newest_undiverged(ids: Sequence[str], bases: Iterable[TakeoverBase]) -> str | None:
    """Return the newest of the snapshots `ids`, which are ascending, that is not known to have diverged."""
    known = tuple(bases)
    return next((one for one in reversed(ids) if not is_diverged(SnapshotNumber.parse(one), known)), None)


def _load(shelf: Shelf, key: str) -> TakeoverBase | None:
    """Return the base of the epoch of that key; None if it has none."""
    try:
        entry = shelf.load(BaseEntry, BASE_ID, key)
        return TakeoverBase(entry.epoch, SnapshotNumber.parse(entry.snapshot) if entry.snapshot else _BEFORE_ALL)
    except ObjectMissing:
        return None
    except (EntryError, ValueError):
        # The epoch is in the name.
        return TakeoverBase(int(key.removeprefix(EpochEntry.prefix()).partition("-")[0]), None)
