# SPDX-License-Identifier: GPL-3.0-or-later
"""The epochs that a volume had, and releasing one in the place of a writer that is gone for good."""

from datetime import datetime
from itertools import zip_longest
from typing import Literal, NamedTuple

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.epoch_entries import RELEASE_SUFFIX, epoch_number, is_placeholder, list_epoch_keys, read_epoch_entry
from cas3fs.errors import EpochHeld, EpochUnknown, ObjectExists

EpochStatus = Literal["held", "released", "continued", "overruled"]
"""``held``: the newest, in use or left by a crash. ``released``: given back. ``continued``: left by a crash, and gone
on with by the state directory that held it. ``overruled``: taken over, and never released."""


class PastEpoch(NamedTuple):
    """An epoch, and what became of it."""

    entry: EpochEntry
    standing: EpochStatus


class _Names(NamedTuple):
    """What a listing of the epochs tells: the key of each number, ascending, and the released ones."""

    keys: dict[int, str]
    released: frozenset[str]


class EpochHistory:
    """The epochs of one volume."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def overruled(self) -> frozenset[int]:
        """As `Epochs.overruled`."""
        standings = self._standings(self._names())
        return frozenset(number for number, standing in standings.items() if standing == "overruled")

    def recent(self, most: int) -> list[PastEpoch]:
        """The last `most` epochs, ascending, and before them those that are overruled. One LIST, a GET for each, and
        where the newest claim does not tell which are overruled one for each that was never released.

        Raises:
            StoreError: the store failed.
        """
        names = self._names()
        recent = set(list(names.keys)[max(0, len(names.keys) - most) :])
        found = []
        for number, standing in self._standings(names).items():
            if number in recent or standing == "overruled":
                entry = read_epoch_entry(self._shelf, names.keys[number])
                found += [PastEpoch(entry, standing)] if entry is not None else []
        return found

    def release(self, number: int, now: datetime) -> bool:
        """Release an overruled epoch in its writer's place; False where there was nothing to release.

        Raises:
            EpochUnknown: there is no such epoch.
            EpochHeld: it is the newest, so nobody has taken it over.
            StoreError: the store failed; releasing again is safe.
        """
        names = self._names()
        url = self._shelf.store.url
        if number not in names.keys:
            raise EpochUnknown(f"{url} had no epoch {number}")
        standing = self._standings(names)[number]
        if standing == "held":
            raise EpochHeld(
                f"epoch {number} is the newest of {url}: `cas3fs umount` releases it where it is mounted; if that "
                "machine is gone for good, `cas3fs mount --take-over` goes on without it"
            )
        entry = read_epoch_entry(self._shelf, names.keys[number]) if standing == "overruled" else None
        if entry is None:
            return False
        try:
            self._shelf.save(ReleaseEntry(owner=entry.key, claim=entry.claim, time=now))
        except ObjectExists:
            return False
        return True

    def _standings(self, names: _Names) -> dict[int, EpochStatus]:
        """What became of each epoch, ascending."""
        newest = max(names.keys, default=0)
        known = self._known_by(names, newest)
        standings: dict[int, EpochStatus] = {}
        for number, following in zip_longest(names.keys, list(names.keys)[1:]):
            if names.keys[number] in names.released:
                standings[number] = "released"
            elif following is None:
                standings[number] = "held"
            elif known is None:
                standings[number] = self._standing_before(names.keys[following])
            else:
                standings[number] = "overruled" if number in known else "continued"
        return standings

    def _known_by(self, names: _Names, newest: int) -> tuple[int, ...] | None:
        """The epochs that the newest claim knows to be overruled."""
        entry = read_epoch_entry(self._shelf, names.keys[newest]) if newest else None
        return None if entry is None else entry.overruled

    def _standing_before(self, following: str) -> EpochStatus:
        """What became of an epoch without a release, by the claim after it, which has the key `following`."""
        claim = read_epoch_entry(self._shelf, following)
        # It may name a claim in between that was withdrawn since: then it took over from this one all the same.
        is_continued = claim is not None and claim.took_over is None and not is_placeholder(claim)
        return "continued" if is_continued else "overruled"

    def _names(self) -> _Names:
        keys = list(list_epoch_keys(self._shelf))
        released = frozenset(key.removesuffix(RELEASE_SUFFIX) for key in keys if key.endswith(RELEASE_SUFFIX))
        claims = sorted((epoch_number(key), key) for key in keys if SUB_SEPARATOR not in key)
        return _Names(dict(claims), released)
