# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the newest epoch of a volume.

An epoch that must exist is looked up by name; a listing can only add to that. Where the store honours conditional
writes, numbers are claimed without gaps, so the name of the next epoch is known, and an epoch that a listing lacks is
found.
"""

import itertools
from typing import NamedTuple

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import EpochEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.epoch_entries import EpochState, epoch_number, list_epoch_keys, read_epoch


class LatestClaims(NamedTuple):
    """The greatest epoch number in the store (0: none) and its claims: one, unless the store ignores conditions."""

    number: int
    claims: tuple[EpochState, ...]

    @property
    def top(self) -> EpochState | None:
        """The claim that matters: a held one before a released one. None if there is no claim."""
        return min(self.claims, key=lambda one: one.released, default=None)


class LatestEpochFinder:
    """Finds the newest epoch.

    Args:
        shelf: the volume's entries.
        conditional_writes: the store honours conditional writes.
    """

    def __init__(self, shelf: Shelf, *, conditional_writes: bool) -> None:
        self._shelf = shelf
        self._conditional_writes = conditional_writes

    def find(self, known: int = 0) -> LatestClaims:
        """Find the newest epoch.

        Args:
            known: the number of an epoch that is known to exist; earlier ones are not listed.

        Raises:
            VolumeFormatError: this version cannot read a name among the epochs.
            StoreError: the store failed.
        """
        keys = self._keys_from(known)
        names = sorted((key for key in keys if SUB_SEPARATOR not in key), key=epoch_number, reverse=True)
        for number, group in itertools.groupby(names, epoch_number):
            claims = [read_epoch(self._shelf, key) for key in group]
            # A number of which all claims were withdrawn does not count: the one below is the newest.
            if found := tuple(claim for claim in claims if claim is not None):
                return LatestClaims(number, found)
        return self.find() if known else LatestClaims(0, ())

    def exists(self, number: int) -> bool:
        """Return whether an epoch was claimed; only where the store honours conditional writes."""
        return self._shelf.exists(EpochEntry, f"{number:08d}")

    def _keys_from(self, known: int) -> set[str]:
        """Return the keys of epochs from `known` on, with the newest even if the listing lacks it."""
        start = EpochEntry.key_of(f"{known - 1:08d}") if known > 1 else ""
        keys = set(list_epoch_keys(self._shelf, start, warn=True))
        if self._conditional_writes:
            listed = max(map(epoch_number, keys), default=0)
            if (newest := self._newest_from(listed)) > listed:
                keys.add(EpochEntry.key_of(f"{newest:08d}"))
        return keys

    def _newest_from(self, number: int) -> int:
        """Find the newest epoch from `number` on by name. Numbers have no gaps, so this is an exponential search."""
        step = 1
        while self.exists(number + step):
            number += step
            step *= 2
        while (step := step // 2) > 0:
            if self.exists(number + step):
                number += step
        return number
