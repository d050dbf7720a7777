# SPDX-License-Identifier: GPL-3.0-or-later
"""What the system lets the process of a mount have."""

import resource
from contextlib import suppress

_MANY_DESCRIPTORS = 65_536


def use_all_descriptors() -> None:
    """Raises the soft limit of open files, 1024 as a rule for the sake of select(2), to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _MANY_DESCRIPTORS):  # where the hard limit is infinite, the system may refuse it
        if soft != resource.RLIM_INFINITY and (soft < wanted or wanted == resource.RLIM_INFINITY):
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                return
