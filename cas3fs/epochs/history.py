# SPDX-License-Identifier: GPL-3.0-or-later
"""The past epochs of a volume, and how to release one in the place of a writer that is gone for good."""

from datetime import datetime
from itertools import zip_longest
from typing import Literal, NamedTuple

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.epoch_entries import (
    RELEASE_SUFFIX,
    epoch_number,
    is_placeholder,
    list_epoch_keys,
    read_epoch_entry,
)
from cas3fs.errors import EpochHeld, EpochUnknown, ObjectExists

EpochStatus = Literal["held", "released", "continued", "overruled"]
"""``held``: the newest, in use or left by a crash. ``released``: given back. ``continued``: left by a crash, and
continued by the state directory that held it. ``overruled``: taken over, and never released."""


class PastEpoch(NamedTuple):
    """An epoch, and how it ended."""

    entry: EpochEntry
    status: EpochStatus


class _ListedEpochs(NamedTuple):
    """A listing of the epochs: the key of each number, ascending, and the keys of those that are released."""

    keys: dict[int, str]
    released: frozenset[str]


class EpochHistory:
    """The epochs of one volume."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def overruled(self) -> frozenset[int]:
        """Return the numbers of overruled epochs, as `Epochs.overruled` does."""
        statuses = self._statuses(self._list())
        return frozenset(number for number, status in statuses.items() if status == "overruled")

    def recent(self, count: int) -> list[PastEpoch]:
        """Return the last `count` epochs and all overruled ones, ascending.

        Makes one LIST, and a GET for each of them; also for each that was never released, if the newest claim does not
        state which epochs are overruled.

        Raises:
            StoreError: the store failed.
        """
        listed = self._list()
        recent = set(list(listed.keys)[max(0, len(listed.keys) - count) :])
        found = []
        for number, status in self._statuses(listed).items():
            if number in recent or status == "overruled":
                entry = read_epoch_entry(self._shelf, listed.keys[number])
                found += [PastEpoch(entry, status)] if entry is not None else []
        return found

    def release(self, number: int, now: datetime) -> bool:
        """Release an overruled epoch in its writer's place.

        Returns:
            Whether it was released now; False if it does not need a release.

        Raises:
            EpochUnknown: there is no such epoch.
            EpochHeld: it is the newest, so nobody has taken it over.
            StoreError: the store failed; releasing again is safe.
        """
        listed = self._list()
        url = self._shelf.store.url
        if number not in listed.keys:
            raise EpochUnknown(f"{url} has no epoch {number}; `cas3fs epochs {url}` shows the latest ones")
        status = self._statuses(listed)[number]
        if status == "held":
            raise EpochHeld(
                f"epoch {number} is the newest of {url}: release it with `cas3fs umount` where it is mounted, or, if "
                "that machine is gone for good, take over with `cas3fs mount --take-over`"
            )
        entry = read_epoch_entry(self._shelf, listed.keys[number]) if status == "overruled" else None
        if entry is None:
            return False
        try:
            self._shelf.save(ReleaseEntry(owner=entry.key, claim=entry.claim, time=now))
        except ObjectExists:
            return False
        return True

    def _statuses(self, listed: _ListedEpochs) -> dict[int, EpochStatus]:
        """Return how each epoch ended, ascending."""
        newest = max(listed.keys, default=0)
        overruled = self._overruled_before(listed, newest)
        statuses: dict[int, EpochStatus] = {}
        for number, following in zip_longest(listed.keys, list(listed.keys)[1:]):
            if listed.keys[number] in listed.released:
                statuses[number] = "released"
            elif following is None:
                statuses[number] = "held"
            elif overruled is None:
                statuses[number] = self._status_before(listed.keys[following])
            else:
                statuses[number] = "overruled" if number in overruled else "continued"
        return statuses

    def _overruled_before(self, listed: _ListedEpochs, newest: int) -> tuple[int, ...] | None:
        """Return the epochs that the newest claim states to be overruled; None if it does not state them."""
        entry = read_epoch_entry(self._shelf, listed.keys[newest]) if newest else None
        return None if entry is None else entry.overruled

    def _status_before(self, following: str) -> EpochStatus:
        """Return how an epoch without a release ended, from the claim after it, which has the key `following`."""
        claim = read_epoch_entry(self._shelf, following)
        # That claim may name one in between that was withdrawn since: it took over from this epoch all the same.
        is_continued = claim is not None and claim.took_over is None and not is_placeholder(claim)
        return "continued" if is_continued else "overruled"

    def _list(self) -> _ListedEpochs:
        keys = list(list_epoch_keys(self._shelf))
        released = frozenset(key.removesuffix(RELEASE_SUFFIX) for key in keys if key.endswith(RELEASE_SUFFIX))
        claims = sorted((epoch_number(key), key) for key in keys if SUB_SEPARATOR not in key)
        return _ListedEpochs(dict(claims), released)
