# SPDX-License-Identifier: GPL-3.0-or-later
"""The one table of requests: what a mount does for each, and what is done where no process has the volume open.

`carry_out` is the way in for commands: it asks the process that serves the volume on this machine, or else carries the
request out itself. The process of a mount answers by the same table (`mount_handlers`).

To add a request: declare it in `cas3fs.control.messages`, write its two functions in the module of the verb in
`cas3fs.commands`, and enter them here. An entry is a function, so that a command imports no more than it needs.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import ControlClient, Handler, Message, Progress
from cas3fs.control.messages.base import Request
from cas3fs.errors import MountError

if TYPE_CHECKING:
    from cas3fs.commands.mount_service import MountService

R = TypeVar("R")


@attrs.frozen
class RequestImplementation:
    """How a verb of the control socket is carried out. The functions return the reply of the request."""

    requests: tuple[type[Request[Any]], ...]
    """The requests of that verb."""
    mounted: Callable[..., Any]
    """Takes the `MountService`, the request and a progress callback."""
    offline: Callable[..., Any] | None = None
    """Takes the settings of the store, the local folders, the request and a progress callback; None where only a mount
    can do it."""


def _status() -> RequestImplementation:
    from cas3fs.commands import mount_service
    from cas3fs.control.messages.mount import StatusRequest

    return RequestImplementation((StatusRequest,), mount_service.report_status)


def _end() -> RequestImplementation:
    from cas3fs.commands import mount_service
    from cas3fs.control.messages.mount import EndRequest

    return RequestImplementation((EndRequest,), mount_service.wait_for_end)


def _store() -> RequestImplementation:
    from cas3fs.commands import flush
    from cas3fs.control.messages.mount import StoreRequest

    return RequestImplementation((StoreRequest,), flush.store_mounted)


def _flush() -> RequestImplementation:
    from cas3fs.commands import flush
    from cas3fs.control.messages.mount import FlushRequest

    return RequestImplementation((FlushRequest,), flush.flush_mounted, flush.refuse_unmounted)


def _stats() -> RequestImplementation:
    from cas3fs.commands import stats
    from cas3fs.control.messages.mount import StatsRequest

    return RequestImplementation((StatsRequest,), stats.report_mounted, stats.report_unmounted)


def _du() -> RequestImplementation:
    from cas3fs.commands import du
    from cas3fs.control.messages.usage import UsageRequest

    return RequestImplementation((UsageRequest,), du.measure_mounted, du.measure_unmounted)


def _gc() -> RequestImplementation:
    from cas3fs.commands import gc
    from cas3fs.control.messages.maintenance import GcPlanRequest, GcRequest

    return RequestImplementation((GcRequest, GcPlanRequest), gc.collect_mounted, gc.collect_unmounted)


def _fsck() -> RequestImplementation:
    from cas3fs.commands import fsck
    from cas3fs.control.messages.maintenance import FsckRequest

    return RequestImplementation((FsckRequest,), fsck.check_mounted, fsck.check_unmounted)


def _snapshots() -> RequestImplementation:
    from cas3fs.commands import snapshot
    from cas3fs.control.messages.snapshots import ListSnapshotsRequest

    return RequestImplementation((ListSnapshotsRequest,), snapshot.list_mounted, snapshot.list_unmounted)


def _snapshot_show() -> RequestImplementation:
    from cas3fs.commands import snapshot
    from cas3fs.control.messages.snapshots import ShowSnapshotRequest

    return RequestImplementation((ShowSnapshotRequest,), snapshot.show_mounted, snapshot.show_unmounted)


def _snapshot_create() -> RequestImplementation:
    from cas3fs.commands import snapshot
    from cas3fs.control.messages.snapshots import CreateSnapshotRequest

    return RequestImplementation((CreateSnapshotRequest,), snapshot.create_mounted, snapshot.create_unmounted)


def _snapshot_delete() -> RequestImplementation:
    from cas3fs.commands import snapshot
    from cas3fs.control.messages.snapshots import DeleteSnapshotsRequest

    return RequestImplementation((DeleteSnapshotsRequest,), snapshot.delete_mounted, snapshot.delete_unmounted)


def _snapshot_prune() -> RequestImplementation:
    from cas3fs.commands import snapshot
    from cas3fs.control.messages.snapshots import PruneRequest

    return RequestImplementation((PruneRequest,), snapshot.prune_mounted, snapshot.prune_unmounted)


def _snapshot_policy() -> RequestImplementation:
    from cas3fs.commands import snapshot
    from cas3fs.control.messages.snapshots import PolicyRequest

    return RequestImplementation((PolicyRequest,), snapshot.policy_mounted, snapshot.policy_unmounted)


def _restore_path() -> RequestImplementation:
    from cas3fs.commands import restore_path
    from cas3fs.control.messages.snapshots import RestorePathRequest

    return RequestImplementation((RestorePathRequest,), restore_path.restore_path_mounted)


OPERATIONS: Final[Mapping[str, Callable[[], RequestImplementation]]] = MappingProxyType(
    {
        "status": _status,
        "store": _store,
        "flush": _flush,
        "end": _end,
        "stats": _stats,
        "du": _du,
        "gc": _gc,
        "fsck": _fsck,
        "snapshots": _snapshots,
        "snapshot-show": _snapshot_show,
        "snapshot-create": _snapshot_create,
        "snapshot-delete": _snapshot_delete,
        "snapshot-prune": _snapshot_prune,
        "snapshot-policy": _snapshot_policy,
        "restore-path": _restore_path,
    }
)


# -- a command's side


@attrs.frozen
class LocalMount:
    """A mount on this machine, and the control socket of its process."""

    url: str
    mountpoint: Path
    socket: Path


@attrs.frozen
class VolumeTarget:
    """The volume that a command works on, and its mount where this machine has one."""

    store: StoreSettings
    folders: LocalFolders
    mount: LocalMount | None = None


def carry_out(target: VolumeTarget, request: Request[R], progress: Progress = lambda _: None) -> R:
    """Have the process that serves the volume carry out `request`, or do it here where there is none.

    Raises:
        MountError: the volume is not mounted, and only a mount can do it.
        Cas3fsError, OSError: as the request does.
    """
    if target.mount is not None:
        with ControlClient(target.mount.socket) as client:
            return client.request(request, progress)
    offline = OPERATIONS[request.verb]().offline
    if offline is None:
        raise MountError(f"{target.store.url} is not mounted on this machine")
    reply: R = offline(target.store, target.folders, request, progress)
    return reply


# -- the side of a mount


def mount_handlers(service: "MountService") -> dict[str, Handler]:
    """What the control server of a mount answers, by verb."""
    return {verb: partial(_answer, service, load) for verb, load in OPERATIONS.items()}


def _answer(
    service: "MountService", load: Callable[[], RequestImplementation], args: Message, progress: Progress
) -> Message:
    from cas3fs.control.conversion import decode_request, encode_reply

    operation = load()
    return encode_reply(operation.mounted(service, decode_request(operation.requests, args), progress))


def import_all() -> None:
    """Import what any request needs.

    A mount does so a few seconds after it began: an upgrade may replace the files of cas3fs while it runs, and its
    process must be of one version.
    """
    import cattrs  # noqa: F401

    import cas3fs.control.conversion
    import cas3fs.maintenance.gc.collector  # noqa: F401

    for load in OPERATIONS.values():
        load()
