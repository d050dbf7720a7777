# SPDX-License-Identifier: GPL-3.0-or-later
"""Failpoints: the places where order matters, named, at each of which a process of ``cas3fs`` can be killed.

A *failpoint* is the moment before or after a function of cas3fs is called, perhaps only if it has something to do, or
for keys of one kind. Nothing of cas3fs knows of it: the command is run within a process in which that function was
wrapped first, so in use it costs nothing::

    python -m cas3fs.testing.failpoints kill index-sync-before:3 mount VOLUME DIRECTORY --foreground
    python -m cas3fs.testing.failpoints record FILE mount VOLUME DIRECTORY --foreground

The first kills the process, as ``kill -9`` does, when it comes to that place for the third time. The second notes in a
file, line by line, which places were reached.
"""

import functools
import importlib
import itertools
import os
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from cas3fs.errors import UsageError

USAGE: Final = "python -m cas3fs.testing.failpoints kill POINT[:COUNT]|record FILE CAS3FS-ARGUMENT..."
_OBJECTS: Final = "cas3fs.objectstores.wrappers.measure:MeasuredStore"
_FOLDER: Final = "cas3fs.objectstores.directory:DirectoryStore"


Matters = Callable[[Sequence[Any], Any], bool]
"""Whether a call counts, by its arguments, the object first, and what it gave; None before it was made."""


def _always(arguments: Sequence[Any], given: Any) -> bool:
    return True


def _some(arguments: Sequence[Any], given: Any) -> bool:
    """It has something to do."""
    return bool(arguments[1])


def _key(prefix: str) -> Matters:
    """Its first argument is a key, or a list of keys, that begins like this."""

    def matters(arguments: Sequence[Any], given: Any) -> bool:
        keys = [arguments[1]] if isinstance(arguments[1], str) else arguments[1]
        return any(key.startswith(prefix) for key in keys)

    return matters


@attrs.frozen
class Failpoint:
    """A place to be killed at."""

    when: Literal["before", "after"]
    place: str
    """``module:function`` or ``module:Class.method``."""
    matters: Matters = _always


def _around(name: str, place: str, matters: Matters = _always) -> dict[str, Failpoint]:
    return {
        f"{name}-before": Failpoint("before", place, matters),
        f"{name}-after": Failpoint("after", place, matters),
    }


_COMMIT: Final[Mapping[str, Failpoint]] = {
    # step 1: bytes, then rows
    "layer-file-made": Failpoint("after", "cas3fs.filesystem.state.layer_files:FileBytes.__init__"),
    **_around("layer-sync", "cas3fs.filesystem.state.layers:Layer.sync"),
    "rows-saved": Failpoint("after", "cas3fs.index.staging:StagingIndex.save", _some),
    **_around("rows-sync", "cas3fs.index.staging:StagingIndex.sync"),
    # step 3 and 4: the group
    "stored-taken": Failpoint(
        "after", "cas3fs.filesystem.state.staging:Staging.take_stored", lambda arguments, given: bool(given[0])
    ),
    **_around("group", "cas3fs.filesystem.writeback.commits:Commits._commit_group"),
    "names-flushed": Failpoint("after", "cas3fs.filesystem.state.dentry_cache:DentryCache.flush"),
    "inodes-written": Failpoint("after", "cas3fs.filesystem.state.inodes:InodeTable.write_back"),
    **_around("index-sync", "cas3fs.index.index:Index.sync"),
    # step 5
    **_around("layers-drop", "cas3fs.filesystem.state.staging:Staging.drop", _some),
    "rows-deleted": Failpoint("after", "cas3fs.index.staging:StagingIndex.delete", _some),
}
_STORING: Final[Mapping[str, Failpoint]] = {
    **_around("pack-put", f"{_OBJECTS}.put_if_absent", _key("packs/")),
    "file-half-put": Failpoint("before", f"{_FOLDER}._link_into_place"),
    **_around("pack-record", "cas3fs.filesystem.writeback.pack_records:PackRecords.add"),
    **_around("chunks-enter", "cas3fs.filesystem.writeback.storer:Storer._enter_chunks"),
}
_PUBLISHING: Final[Mapping[str, Failpoint]] = {
    "snapshot-noted": Failpoint("after", "cas3fs.volume.publisher:Publisher._save_in_index"),
    "checkpoint-pinned": Failpoint("after", "cas3fs.filesystem.writeback.commits:Commits.commit_and"),
    "checkpoint-copied": Failpoint("after", "cas3fs.index.index:PinnedIndex.copy_to"),
    "checkpoint-trimmed": Failpoint("after", "cas3fs.volume.publisher:drop_hash_index"),
    **_around("pages-put", f"{_OBJECTS}.put_if_absent", _key("pages/")),
    **_around("manifest-put", f"{_OBJECTS}.put_if_absent", _key("snapshots/")),
    "snapshot-made": Failpoint("after", "cas3fs.snapshots.archive:SnapshotArchive.create"),
}
_TURN: Final[Mapping[str, Failpoint]] = {
    **_around("claim-put", f"{_OBJECTS}.put_if_absent", _key("epochs/")),
    "claim-won": Failpoint("after", "cas3fs.epochs:Epochs.claim"),
    "restored": Failpoint("after", "cas3fs.snapshots.archive:SnapshotArchive.restore"),
    **_around("restored-in-place", "cas3fs.volume.lineage:put_in_place"),
    "line-taken-up": Failpoint("after", "cas3fs.volume.lineage:_record"),
    **_around("base-written", "cas3fs.snapshots.divergence:write_takeover_base"),
    "replayed": Failpoint("after", "cas3fs.filesystem.filesystem:recover"),
    **_around("release", "cas3fs.epochs:Epochs.release"),
    **_around("mark-clean", "cas3fs.volume.opening:close_clean"),
}
_REMOVING: Final[Mapping[str, Failpoint]] = {
    **_around("snapshots-delete", f"{_OBJECTS}.delete_many", _key("snapshots/")),
    **_around("pages-delete", f"{_OBJECTS}.delete_many", _key("pages/")),
    **_around("packs-delete", f"{_OBJECTS}.delete_many", _key("packs/")),
    "blocks-dropped": Failpoint("after", "cas3fs.index.garbage:Garbage.delete_blocks"),
    "packs-marked-dead": Failpoint("after", "cas3fs.index.garbage:Garbage.mark_packs_dead"),
    "blocks-moved": Failpoint("after", "cas3fs.index.garbage:Garbage.move_blocks"),
    "packs-forgotten": Failpoint("after", "cas3fs.index.garbage:Garbage.delete_packs"),
}
FAILPOINTS: Final[Mapping[str, Failpoint]] = {**_COMMIT, **_STORING, **_PUBLISHING, **_TURN, **_REMOVING}
"""All of them, by name, in the order in which a volume's life meets them."""


def arm(name: str, reached: Callable[[str], None]) -> None:
    """Has `reached` called, with `name`, whenever this process comes to that failpoint.

    Raises:
        UsageError: there is no such failpoint.
    """
    point = FAILPOINTS.get(name)
    if point is None:
        raise UsageError(f"there is no failpoint {name}; there are: {', '.join(FAILPOINTS)}")
    module, _, path = point.place.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, attribute = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function = getattr(owner, attribute)

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if point.when == "before" and point.matters(arguments, None):
            reached(name)
        given = function(*arguments, **options)
        if point.when == "after" and point.matters(arguments, given):
            reached(name)
        return given

    setattr(owner, attribute, wrapped)


def killing(count: int) -> Callable[[str], None]:
    """What kills this process when it is called for the `count`-th time, in whatever thread."""
    calls = itertools.count(1)

    def reached(_: str) -> None:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def recording(path: str) -> Callable[[str], None]:
    """What appends a line with its name for each failpoint that is reached."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return lambda name: void(os.write(file, f"{name}\n".encode()))


def void(_: object) -> None:
    """Gives nothing back."""


def main(arguments: Sequence[str]) -> None:
    """The command of the module: arms, and becomes ``python -m cas3fs``."""
    if len(arguments) < 3 or arguments[0] not in ("kill", "record"):
        raise SystemExit(USAGE)
    action, what, *rest = arguments
    if action == "record":
        reached = recording(what)
        for name in FAILPOINTS:
            arm(name, reached)
    else:
        name, _, count = what.partition(":")
        arm(name, killing(int(count or 1)))
    sys.argv[1:] = rest
    runpy.run_module("cas3fs", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
