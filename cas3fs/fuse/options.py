# SPDX-License-Identifier: GPL-3.0-or-later
"""The mount options behind ``-o``: those of cas3fs, those that are meant for others, and those of the front-end.

- Ours: ``ro``, ``rw``, ``uid=N``, ``gid=N`` (the owner that every file shows), ``timeout=SECONDS`` (how long the kernel
  may cache names and attributes), ``noallow_other``, ``nonempty``, and ``noacl``
  (access lists are refused).
- For mount(8), systemd and whoever else reads ``/etc/fstab``, as ``mount.fuse3`` ignores them: ``defaults``, ``auto``,
  ``user``, ``nofail``, ``_netdev``, ``comment=``, whatever begins with ``x-``, and their like.
- All others are the front-end's, which refuses those that it does not know.
"""

import math
from collections.abc import Iterable

import attrs

from cas3fs.errors import UsageError

_OURS = frozenset({"ro", "rw", "noallow_other", "nonempty", "acl", "noacl"})
_NUMBERS = frozenset({"uid", "gid", "timeout"})
_OF_FSTAB = frozenset(
    {"defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "comment"}
)
_OF_FSTAB_PREFIXES = ("x-", "X-")
_LARGEST_ID = 2**32 - 2


@attrs.frozen
class MountOptions:
    """The parsed options of one mount."""

    passed_on: frozenset[str] = frozenset()
    """Those of the front-end; none contradicts another."""
    read_only: bool = False
    allow_other: bool = False
    nonempty: bool = False
    access_lists: bool = True
    uid: int | None = None
    gid: int | None = None
    timeout_s: float | None = None


def parse_options(options: Iterable[str], *, is_root: bool) -> MountOptions:
    """Parse `options`, each of the form ``name`` or ``name=value``; by default root's mounts are open to all users.

    Raises:
        UsageError: an option has an invalid value.
    """
    given = list(options)
    names = {_name_of(option) for option in given}
    numbers = {name: _number(option) for option in given if (name := _name_of(option)) in _NUMBERS}
    uid, gid, timeout = numbers.get("uid"), numbers.get("gid"), numbers.get("timeout")
    return MountOptions(
        passed_on=frozenset(option for option in given if _is_passed_on(_name_of(option))),
        read_only="ro" in names,
        allow_other=is_root and not names & {"noallow_other", "allow_root"},
        nonempty="nonempty" in names,
        access_lists="noacl" not in names,
        uid=None if uid is None else int(uid),
        gid=None if gid is None else int(gid),
        timeout_s=timeout,
    )


def _name_of(option: str) -> str:
    return option.partition("=")[0]


def _is_passed_on(name: str) -> bool:
    return name not in _OURS | _NUMBERS | _OF_FSTAB and not name.startswith(_OF_FSTAB_PREFIXES)


def _number(option: str) -> float:
    name, _, value = option.partition("=")
    try:
        number = float(value) if name == "timeout" else int(value)
    except ValueError:
        raise UsageError(f"the mount option {name} takes a number, not {value!r}") from None
    if number < 0:
        raise UsageError(f"the mount option {name} must not be negative")
    if not math.isfinite(number) or (name != "timeout" and number > _LARGEST_ID):
        raise UsageError(f"the mount option {name} is too large: {value}")
    return number
