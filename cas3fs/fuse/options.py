# SPDX-License-Identifier: GPL-3.0-or-later
"""The mount options behind ``-o``: which are ours, and which a front-end passes on to libfuse.

Ours: ``ro``, ``rw``, ``uid=N``, ``gid=N`` (the owner that every file shows), ``timeout=SECONDS`` (how long the kernel
may cache names and attributes), ``noallow_other``, and ``nonempty``. The others are passed on; libfuse refuses those it
does not know.
"""

from collections.abc import Iterable

import attrs

from cas3fs.errors import UsageError

_OURS = frozenset({"ro", "rw", "noallow_other", "nonempty", "defaults", "_netdev", "auto", "noauto", "user", "nofail"})
_NUMBERS = frozenset({"uid", "gid", "timeout"})


@attrs.frozen
class MountOptions:
    """The parsed options of one mount."""

    passed_on: frozenset[str] = frozenset()
    read_only: bool = False
    allow_other: bool = False
    nonempty: bool = False
    uid: int | None = None
    gid: int | None = None
    timeout_s: float | None = None


def parse_options(options: Iterable[str], *, is_root: bool) -> MountOptions:
    """Parse `options`, each of the form ``name`` or ``name=value``; by default root's mounts are open to all users.

    Raises:
        UsageError: an option has an invalid value.
    """
    given = list(options)
    names = {option.partition("=")[0] for option in given}
    numbers = {name: _number(option) for option in given if (name := option.partition("=")[0]) in _NUMBERS}
    uid, gid, timeout = numbers.get("uid"), numbers.get("gid"), numbers.get("timeout")
    return MountOptions(
        passed_on=frozenset(option for option in given if option.partition("=")[0] not in _OURS | _NUMBERS),
        read_only="ro" in names,
        allow_other=is_root and not names & {"noallow_other", "allow_root"},
        nonempty="nonempty" in names,
        uid=None if uid is None else int(uid),
        gid=None if gid is None else int(gid),
        timeout_s=timeout,
    )


def _number(option: str) -> float:
    name, _, value = option.partition("=")
    try:
        number = float(value) if name == "timeout" else int(value)
    except ValueError:
        raise UsageError(f"the mount option {name} takes a number, not {value!r}") from None
    if number < 0:
        raise UsageError(f"the mount option {name} must not be negative")
    return number
