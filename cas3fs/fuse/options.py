# SPDX-License-Identifier: GPL-3.0-or-later
"""What may stand behind ``-o``, and what of it goes to libfuse.

Ours: ``ro``, ``rw``, ``uid=N``, ``gid=N`` (the owner that every file shows), ``timeout=SECONDS`` (how long the kernel
may remember names and attributes), ``noallow_other``, and ``nonempty``. The others are handed on; libfuse refuses
those it does not know.
"""

from collections.abc import Iterable

import attrs

from cas3fs.errors import UsageError
from cas3fs.fuse.mountpoints import SUBTYPE, source_of

_BASE = frozenset({"big_writes", "default_permissions", "no_splice_read", "splice_write", "splice_move"})
_OURS = frozenset({"ro", "rw", "noallow_other", "nonempty", "defaults", "_netdev", "auto", "noauto", "user", "nofail"})
_NUMBERS = frozenset({"uid", "gid", "timeout"})
_MIN_BACKGROUND = 2


@attrs.frozen
class SessionOptions:
    """The options of one session, understood."""

    handed_on: frozenset[str] = frozenset()
    read_only: bool = False
    allow_other: bool = False
    nonempty: bool = False
    uid: int | None = None
    gid: int | None = None
    timeout_s: float | None = None

    def for_libfuse(self, url: str, workers: int, *, read_only: bool) -> set[str]:
        """The options that libfuse gets.

        Read-ahead may occupy half of the workers, the rest is for what waits for staging or needs no waiting.
        """
        escaped = source_of(url).replace("\\", "\\\\").replace(",", "\\,")
        options = {f"fsname={escaped}", f"subtype={SUBTYPE}", *_BASE, *self.handed_on}
        background = max(_MIN_BACKGROUND, workers // 2)
        options |= {f"max_background={background}", f"congestion_threshold={background}"}
        if self.allow_other:
            options.add("allow_other")
        if self.nonempty:
            options.add("nonempty")
        if read_only:
            options.add("ro")
        return options


def parse_options(options: Iterable[str], *, is_root: bool) -> SessionOptions:
    """Sorts out `options`, each of the form ``name`` or ``name=value``; root's mounts are open to all users by default.

    Raises:
        UsageError: a value is not what the option takes.
    """
    given = list(options)
    names = {option.partition("=")[0] for option in given}
    numbers = {name: _number(option) for option in given if (name := option.partition("=")[0]) in _NUMBERS}
    uid, gid, timeout = numbers.get("uid"), numbers.get("gid"), numbers.get("timeout")
    return SessionOptions(
        handed_on=frozenset(option for option in given if option.partition("=")[0] not in _OURS | _NUMBERS),
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
        raise UsageError(f"the mount option {name} takes no negative number")
    return number
