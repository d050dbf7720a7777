# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of retention, and those of a volume that has none of its own.

This module imports no other of cas3fs, as commands need it to ask a mount. `cas3fs.snapshots.retention` applies a
policy, and keeps the one of a volume.
"""

from typing import Final

import attrs

_HOUR_S: Final = 3600


@attrs.frozen
class RetentionPolicy:
    """Rules of retention; a number of 0 keeps nothing."""

    within_s: int = 0
    """All that are at most so old, in seconds."""
    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    names: tuple[str, ...] = ()
    """Patterns, as of a shell, for the names of named snapshots."""

    @property
    def has_ages(self) -> bool:
        """Whether any rule asks how old a snapshot is."""
        return any((self.within_s, self.hourly, self.daily, self.weekly, self.monthly))


DEFAULT_POLICY: Final = RetentionPolicy(within_s=_HOUR_S, hourly=24, daily=31, monthly=12, names=("*",))
"""All of the last hour, hourly for a day, daily for a month, monthly for a year; named ones until deleted."""
