# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the snapshot that a person means.

A *selector* is one of these, tried in this order:

- an id: ``00000007-0000000123``. It is taken as it is, so that a lost or damaged snapshot can be named.
- ``latest``: the head.
- ``@2h``: the newest snapshot that is at least two hours old; also ``@30m``, ``@3d``, ``@1w``.
- ``@2026-11-28 10:00``: the newest one that is not younger than that; local time, unless it says an offset from UTC.
- a name.
- the numbers of an id without zeros, ``7-123``, or the beginning of an id that no other snapshot has.

Snapshots that have diverged are found by id or name only: they are no earlier state of the volume.
"""

import difflib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cas3fs.errors import SnapshotError, SnapshotMissing, UsageError
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.manifests import SnapshotInfo
from cas3fs.units import format_time, parse_duration, parse_time
from cas3fs.values import SnapshotNumber

LATEST: Final = "latest"
NOW: Final = "now"
"""What a mount has now, where a command accepts that; no snapshot has this name."""
_SHOWN: Final = 5
"""So many candidates stand in a message."""


def _now() -> datetime:
    return datetime.now(UTC)


def is_id(text: str) -> bool:
    """Whether `text` is a whole id, of a snapshot that exists or not."""
    try:
        return str(SnapshotNumber.parse(text)) == text
    except ValueError:
        return False


def check_name(name: str | None) -> None:
    """Check that a new snapshot of that name can be selected by it.

    Raises:
        UsageError: the name is empty, or means something else as a selector.
    """
    if name is None:
        return
    if not name or name in (LATEST, NOW) or name.startswith("@") or is_id(name):
        raise UsageError(f"a snapshot cannot be named {name!r}, which selects snapshots in another way")


def find_snapshot(archive: SnapshotArchive, selector: str, now: Callable[[], datetime] = _now) -> str:
    """Return the id of the snapshot that `selector` means; the snapshot of a whole id may be missing.

    Raises:
        SnapshotMissing: no snapshot matches.
        SnapshotError: several match.
        UsageError: what follows ``@`` is neither a length of time nor a time.
        StoreError: the store failed.
    """
    if is_id(selector):
        return selector
    url = archive.shelf.store.url
    if selector == LATEST:
        head = archive.newest_id()
        if head is None:
            raise SnapshotMissing(f"{url} has no snapshots")
        return head
    limit = _time_of(selector, now) if selector.startswith("@") else None
    unreadable: list[str] = []
    found = archive.list(lambda one, error: unreadable.append(one))
    if limit is not None:
        diverged = archive.diverged([one.id for one in found])
        return _newest_until(limit, [one for one in found if one.id not in diverged], selector, url)
    return _by_text(selector, found, unreadable, url)


def _time_of(selector: str, now: Callable[[], datetime]) -> datetime:
    """The time after which a snapshot is too young."""
    text = selector.removeprefix("@").strip()
    try:
        if text[-1:].isalpha():  # a number alone may be a year as well
            return now() - timedelta(seconds=parse_duration(text))
    except (UsageError, OverflowError):
        pass
    try:
        return parse_time(text)
    except UsageError:
        raise UsageError(
            f"{selector!r} selects no snapshot; write the age as @30m, @2h, @3d or @1w, or a time as "
            "'@2026-11-28 10:00'"
        ) from None


def _newest_until(limit: datetime, found: Sequence[SnapshotInfo], selector: str, url: str) -> str:
    old_enough = [one for one in found if one.time <= limit]
    if old_enough:
        return max(old_enough, key=lambda one: (one.time, one.number)).id
    if not found:
        raise SnapshotMissing(f"{url} has no snapshots")
    oldest = min(found, key=lambda one: (one.time, one.number))
    raise SnapshotMissing(
        f"{url} has no snapshot as old as {selector!r} ({format_time(limit)}); the oldest is {_shown(oldest)}"
    )


def _by_text(selector: str, found: Sequence[SnapshotInfo], unreadable: Sequence[str], url: str) -> str:
    named = [one for one in found if one.name is not None and one.name == selector]
    if named:
        return _only(selector, [one.id for one in named], [_shown(one) for one in named], url, "are named")
    ids = [*(one.id for one in found), *unreadable]
    short = [one for one in ids if _without_zeros(one) == selector]
    begun = short or [one for one in ids if selector and one.startswith(selector)]
    if not begun:
        raise SnapshotMissing(_no_match(selector, found, url))
    by_id = {one.id: one for one in found}
    return _only(selector, begun, [_shown(by_id[one]) if one in by_id else one for one in begun], url, "begin with")


def _only(selector: str, ids: Sequence[str], shown: Sequence[str], url: str, how: str) -> str:
    if len(ids) == 1:
        return ids[0]
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    newest = ", ".join(sorted(shown, reverse=True)[:_SHOWN])
    raise SnapshotError(f"{len(ids)} snapshots of {url} {how} {selector!r}: {newest}{more}; give the id of one")


def _no_match(selector: str, found: Sequence[SnapshotInfo], url: str) -> str:
    names = sorted({one.name for one in found if one.name is not None})
    known = [LATEST, *names, *(one.id for one in found)]
    nearest = [repr(one) for one in difflib.get_close_matches(selector, known, 1)]
    hint = f"; the nearest is {nearest[0]}" if nearest else ""
    return f"{url} has no snapshot {selector!r}{hint}; `cas3fs snapshot list` shows all"


def _without_zeros(snapshot_id: str) -> str:
    epoch, sequence = SnapshotNumber.parse(snapshot_id)
    return f"{epoch}-{sequence}"


def _shown(one: SnapshotInfo) -> str:
    name = f" {one.name!r}" if one.name else ""
    return f"{one.id}{name} of {format_time(one.time)}"
