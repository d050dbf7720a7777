# SPDX-License-Identifier: GPL-3.0-or-later
"""The epochs that a volume had, and releasing one in the place of a writer that is gone for good."""

from datetime import datetime
from typing import Final, Literal, NamedTuple

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import RELEASED_ID, EpochEntry, ReleaseEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.values import number_of
from cas3fs.errors import EpochHeld, EpochUnknown, ObjectExists, ObjectMissing

Standing = Literal["held", "released", "continued", "overruled"]
"""``held``: the newest, in use or left by a crash. ``released``: given back. ``continued``: left by a crash, and gone
on with by the state directory that held it. ``overruled``: taken over, and never released."""

_SUFFIX: Final = SUB_SEPARATOR + RELEASED_ID


class PastEpoch(NamedTuple):
    """An epoch, and what became of it."""

    entry: EpochEntry
    standing: Standing


class _Names(NamedTuple):
    """What a listing of the epochs tells: the key of each number, ascending, and the released ones."""

    keys: dict[int, str]
    released: frozenset[str]

    def following(self, number: int) -> str | None:
        """The key of the next epoch."""
        return next((self.keys[one] for one in self.keys if one > number), None)


class History:
    """The epochs of one volume."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def overruled(self) -> frozenset[int]:
        """As `Epochs.overruled`."""
        names = self._names()
        return frozenset(number for number in names.keys if self._standing(names, number) == "overruled")

    def told(self, most: int) -> list[PastEpoch]:
        """The last `most` epochs, ascending, and before them those that are overruled. One LIST, and a GET for each
        and for each that was never released.

        Raises:
            StoreError: the store failed.
        """
        names = self._names()
        recent = set(list(names.keys)[max(0, len(names.keys) - most) :])
        found = []
        for number, key in names.keys.items():
            standing = self._standing(names, number)
            if number in recent or standing == "overruled":
                entry = self._load(key)
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
        standing = self._standing(names, number)
        if standing == "held":
            raise EpochHeld(
                f"epoch {number} is the newest of {url}: `cas3fs umount` releases it where it is mounted; if that "
                "machine is gone for good, `cas3fs mount --take-over` goes on without it"
            )
        entry = self._load(names.keys[number]) if standing == "overruled" else None
        if entry is None:
            return False
        try:
            self._shelf.save(ReleaseEntry(owner=entry.key, claim=entry.claim, time=now))
        except ObjectExists:
            return False
        return True

    def _standing(self, names: _Names, number: int) -> Standing:
        key, following = names.keys[number], names.following(number)
        if key in names.released:
            return "released"
        if following is None:
            return "held"
        claim = self._load(following)
        # It may name a claim in between that was withdrawn since: then it took over from this one all the same.
        return "overruled" if claim is None or claim.took_over is not None else "continued"

    def _names(self) -> _Names:
        keys = [info.key for info in self._shelf.store.list(EpochEntry.prefix())]
        released = frozenset(key.removesuffix(_SUFFIX) for key in keys if key.endswith(_SUFFIX))
        claims = sorted((number_of(key), key) for key in keys if SUB_SEPARATOR not in key)
        return _Names(dict(claims), released)

    def _load(self, key: str) -> EpochEntry | None:
        try:
            return self._shelf.load(EpochEntry, key.removeprefix(EpochEntry.prefix()))
        except ObjectMissing:
            # Withdrawn since it was listed.
            return None
