# SPDX-License-Identifier: GPL-3.0-or-later
"""Failpoints: named places in cas3fs at which a process can be killed.

A *failpoint* is the moment before or after a call of a function of cas3fs, perhaps only if the call has work to do, or
for keys of one kind. cas3fs itself does not know of them: the command runs in a process that has wrapped the function
before, so they cost nothing in use::

    python -m cas3fs.testing.failpoints kill index-sync-before:3 mount VOLUME DIRECTORY --foreground
    python -m cas3fs.testing.failpoints record FILE mount VOLUME DIRECTORY --foreground

The first kills the process, as ``kill -9`` does, when it reaches that failpoint for the third time. The second writes
the names of the failpoints that are reached to a file, one a line.
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


Condition = Callable[[Sequence[Any], Any], bool]
"""Whether a call counts, given its arguments (the object is the first) and its result, which is None before it."""


def _always(arguments: Sequence[Any], given: Any) -> bool:
    return True


def _has_work(arguments: Sequence[Any], given: Any) -> bool:
    """The call has work to do: its first argument is not empty."""
    return bool(arguments[1])


def _key(prefix: str) -> Condition:
    """The first argument is a key with this prefix, or a list with such a key."""

    def condition(arguments: Sequence[Any], given: Any) -> bool:
        keys = [arguments[1]] if isinstance(arguments[1], str) else arguments[1]
        return any(key.startswith(prefix) for key in keys)

    return condition


@attrs.frozen
class Failpoint:
    """A place at which a process can be killed."""

    when: Literal["before", "after"]
    target: str
    """``module:function`` or ``module:Class.method``."""
    condition: Condition = _always


def _around(name: str, target: str, condition: Condition = _always) -> dict[str, Failpoint]:
    return {
        f"{name}-before": Failpoint("before", target, condition),
        f"{name}-after": Failpoint("after", target, condition),
    }


_COMMIT: Final[Mapping[str, Failpoint]] = {
    # step 1: bytes, then rows
    "layer-file-made": Failpoint("after", "cas3fs.filesystem.state.layer_files:FileBytes.__init__"),
    **_around("layer-sync", "cas3fs.filesystem.state.layers:Layer.sync"),
    "rows-saved": Failpoint("after", "cas3fs.index.staging:StagingIndex.save", _has_work),
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
    **_around("layers-drop", "cas3fs.filesystem.state.staging:Staging.drop", _has_work),
    "rows-deleted": Failpoint("after", "cas3fs.index.staging:StagingIndex.delete", _has_work),
}
_STORING: Final[Mapping[str, Failpoint]] = {
    **_around("pack-put", f"{_OBJECTS}.put_if_absent", _key("packs/")),
    "file-half-put": Failpoint("before", f"{_FOLDER}._link_into_place"),
    **_around("pack-record", "cas3fs.filesystem.writeback.pack_records:PackRecords.add"),
    "hashes-made": Failpoint("after", "cas3fs.index.hash_index:HashIndex._make"),
    **_around("chunks-enter", "cas3fs.filesystem.writeback.storer:Storer._enter_chunks"),
}
_PUBLISHING: Final[Mapping[str, Failpoint]] = {
    "snapshot-noted": Failpoint("after", "cas3fs.volume.publisher:Publisher._save_in_index"),
    "checkpoint-pinned": Failpoint("after", "cas3fs.filesystem.writeback.commits:Commits.commit_and"),
    "log-moved": Failpoint("after", "cas3fs.index.index_file:IndexFile.move_most"),
    "index-pinned": Failpoint("after", "cas3fs.index.index_file:IndexFile.pin"),
    "index-read": Failpoint("after", "cas3fs.index.index_file:PinnedFile.check"),
    **_around("pages-put", f"{_OBJECTS}.put_if_absent", _key("pages/")),
    **_around("manifest-put", f"{_OBJECTS}.put_if_absent", _key("snapshots/")),
    "snapshot-made": Failpoint("after", "cas3fs.snapshots.archive:SnapshotArchive.create"),
}
_CLAIMING: Final[Mapping[str, Failpoint]] = {
    **_around("claim-put", f"{_OBJECTS}.put_if_absent", _key("epochs/")),
    "claim-won": Failpoint("after", "cas3fs.epochs:Epochs.claim"),
    "restored": Failpoint("after", "cas3fs.snapshots.archive:SnapshotArchive.restore"),
    **_around("restored-in-place", "cas3fs.volume.lineage:put_in_place"),
    "index-selected": Failpoint("after", "cas3fs.volume.lineage:_record"),
    **_around("base-written", "cas3fs.snapshots.divergence:write_takeover_base"),
    "replayed": Failpoint("after", "cas3fs.filesystem.filesystem:recover"),
    **_around("release", "cas3fs.epochs:Epochs.release"),
    **_around("hashes-close", "cas3fs.index.hash_index:HashIndex.close"),
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
FAILPOINTS: Final[Mapping[str, Failpoint]] = {**_COMMIT, **_STORING, **_PUBLISHING, **_CLAIMING, **_REMOVING}
"""All failpoints of mounts by name, in the order in which a volume reaches them."""
KEY_FAILPOINTS: Final[Mapping[str, Failpoint]] = {
    **_around("keyring-put", f"{_OBJECTS}.put_if_absent", _key("keyring/")),
    **_around("keyring-delete", f"{_OBJECTS}.delete_many", _key("keyring/")),
}
"""Those that a change of keys and ``gc --reencrypt`` reach beside the ones of a gc."""
COPY_FAILPOINTS: Final[Mapping[str, Failpoint]] = {
    **_around("copy-mark", f"{_OBJECTS}.put_if_absent", _key("copies/")),
    **_around("copy-commit", "cas3fs.index.sqlite:Database.commit"),
    **_around("copy-published", "cas3fs.index.ledger:CopyLedger.set_published"),
}
"""Those that ``cas3fs copy`` reaches beside the ones of storing, publishing and claiming."""


def arm(name: str, reached: Callable[[str], None]) -> None:
    """Call `reached` with `name` whenever this process reaches that failpoint.

    Raises:
        UsageError: there is no such failpoint.
    """
    points = {**FAILPOINTS, **KEY_FAILPOINTS, **COPY_FAILPOINTS}
    point = points.get(name)
    if point is None:
        raise UsageError(f"there is no failpoint {name}; there are: {', '.join(points)}")
    module, _, path = point.target.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, attribute = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function = getattr(owner, attribute)

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if point.when == "before" and point.condition(arguments, None):
            reached(name)
        given = function(*arguments, **options)
        if point.when == "after" and point.condition(arguments, given):
            reached(name)
        return given

    setattr(owner, attribute, wrapped)


def kill_at(count: int) -> Callable[[str], None]:
    """A function that kills this process when it is called for the `count`-th time, in any thread."""
    calls = itertools.count(1)

    def reached(_: str) -> None:
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def record_to(path: str) -> Callable[[str], None]:
    """A function that appends the name of a failpoint to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def reached(name: str) -> None:
        os.write(file, f"{name}\n".encode())

    return reached


def main(arguments: Sequence[str]) -> None:
    """The command of this module: arms failpoints and runs ``python -m cas3fs``."""
    if len(arguments) < 3 or arguments[0] not in ("kill", "record"):
        raise SystemExit(USAGE)
    action, argument, *rest = arguments
    if action == "record":
        reached = record_to(argument)
        for name in FAILPOINTS:
            arm(name, reached)
    else:
        name, _, count = argument.partition(":")
        arm(name, kill_at(int(count or 1)))
    sys.argv[1:] = rest
    runpy.run_module("cas3fs", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
