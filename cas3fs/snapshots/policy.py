# SPDX-License-Identifier: GPL-3.0-or-later
"""The retention policy: which snapshots are kept, and the default.

Imports nothing of cas3fs, because commands use it only to send a request to a mount. `cas3fs.snapshots.retention`
applies a policy, and stores that of a volume.
"""

from typing import Final

import attrs

_HOUR_S: Final = 3600


@attrs.frozen
class RetentionPolicy:
    """The rules of a policy; a rule that is 0 keeps nothing."""

    within_s: int = 0
    """Keeps all snapshots of at most this age, in seconds."""
    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    names: tuple[str, ...] = ()
    """Shell patterns; keeps snapshots whose names match one."""

    @property
    def has_ages(self) -> bool:
        """Whether any rule depends on the age of a snapshot."""
        return any((self.within_s, self.hourly, self.daily, self.weekly, self.monthly))


DEFAULT_POLICY: Final = RetentionPolicy(within_s=_HOUR_S, hourly=24, daily=31, monthly=12, names=("*",))
"""All of the last hour, hourly for a day, daily for a month, monthly for a year; named ones until they are deleted."""
