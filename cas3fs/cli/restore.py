# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs restore``: bring a file or a folder back out of a snapshot."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cas3fs.cli.browsing import report_damage
from cas3fs.cli.common import json_option, print_json, snapshot_selector
from cas3fs.cli.progress import progress_bar
from cas3fs.cli.volume_paths import VolumePath, split_mount_path, volume_path_arguments
from cas3fs.control import Progress
from cas3fs.errors import MountError, UsageError
from cas3fs.units import format_size

if TYPE_CHECKING:
    from cas3fs.commands.requests import VolumeTarget
    from cas3fs.control.messages.snapshots import RestorePathReply, RestorePathRequest


@click.command()
@volume_path_arguments
@click.option("--snapshot", metavar="SNAPSHOT", help="Take it from this snapshot: an id, a name, @2h.")
@click.option("--at", metavar="TIME", help="Take it from the newest snapshot of that time: '2026-11-28 10:00'.")
@click.option("--to", "destination", metavar="DEST", help="Restore it under this path of the volume.  [default: PATH]")
@click.option("--overwrite", is_flag=True, help="Replace what is there; it is kept as NAME.replaced.")
@json_option
def restore(
    *,
    where: VolumePath,
    snapshot: str | None,
    at: str | None,
    destination: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Bring the file or folder PATH back into the volume, without copying its data.

    PATH lies in a mount, and need not exist any more; or it is the path within VOLUME. It is taken from the newest
    snapshot that has it, unless an option says another; `cas3fs history PATH` shows its versions. `cas3fs snapshot
    restore` restores a whole volume.

    Example: cas3fs restore --at '2026-11-28 10:00' /mnt/volume/Documents
    """
    from cas3fs.commands.browse import Looking, newest_with
    from cas3fs.control.messages.snapshots import RestorePathRequest

    selector = snapshot_selector(snapshot, at)
    target = where.volume.find()
    path = where.path if destination is None else _inside(target, where, destination)
    folder, _, name = path.rpartition("/")
    if not name:
        raise UsageError("the root of a volume is there already: give a folder to restore it in with --to")
    with progress_bar("restoring") as progress:
        if target.mount is not None:
            _check_free(target.mount.mountpoint / path, overwrite=overwrite)
        if selector is None:
            selector = newest_with(Looking(target.store, target.folders, progress, report_damage), where.path)
        request = RestorePathRequest(selector, where.path, folder)
        if target.mount is not None:
            reply, kept = _in_mount(target, request, name, progress, overwrite=overwrite)
        else:
            from cas3fs.commands.restore_path import restore_path_unmounted

            reply, kept = restore_path_unmounted(
                target.store, target.folders, request, name, overwrite=overwrite, progress=progress
            )
    if as_json:
        print_json({
            "snapshot": reply.snapshot, "path": path, "files": reply.files, "logical_bytes": reply.logical_bytes,
            "kept": kept,
        })  # fmt: skip
        return
    size = format_size(reply.logical_bytes)
    click.echo(f"{path}: {reply.files:,} files and folders, {size}, as in snapshot {reply.snapshot}")
    if kept is not None:
        click.echo(f"what was there before is kept as {kept}")


def _inside(target: "VolumeTarget", where: VolumePath, destination: str) -> str:
    """The path within the volume that --to gives."""
    if target.mount is None or "://" in where.volume.named:
        return destination.strip("/")
    try:
        mountpoint, path = split_mount_path(destination)
    except MountError:
        mountpoint = path = ""
    if not mountpoint or Path(mountpoint) != target.mount.mountpoint:
        raise UsageError(
            f"{destination} is not in the mount on {target.mount.mountpoint}: to copy data to another place, use "
            "`cas3fs snapshot extract`"
        )
    return path


def _check_free(path: Path, *, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path} exists: restore to another path with --to, or give --overwrite to replace it")


def _in_mount(
    target: "VolumeTarget", request: "RestorePathRequest", name: str, progress: Progress, *, overwrite: bool
) -> "tuple[RestorePathReply, str | None]":
    from cas3fs.commands.requests import carry_out
    from cas3fs.commands.restore_path import place_in_mount

    assert target.mount is not None
    folder = target.mount.mountpoint / request.folder
    reply = carry_out(target, request, progress)
    kept = place_in_mount(folder / reply.name, folder / name, overwrite=overwrite)
    return reply, None if kept is None else kept.name
