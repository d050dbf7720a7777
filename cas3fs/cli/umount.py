# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs umount``: stores everything, publishes, releases the volume, and only then returns.

The order: first everything is stored while programs may still use the mount, for that takes longest and may fail;
then the kernel lets go of the mount point, which it refuses while it is in use; then the mount's process stores what
was written in between, publishes and ends. When a step fails the ones after it are left out, and nothing is lost: it
is on the local disk.
"""

import os
import select

import click

from cas3fs.cli.common import Target, find_target_or_lost, folder_options, json_option, print_json, volume_url
from cas3fs.cli.progress import progress_bar
from cas3fs.config import find_local_folders
from cas3fs.control import ControlClient, Message, Progress
from cas3fs.errors import Fenced, FilesNotStored, IndexDatabaseError, IndexRowRefused, MountError, StoreError

_END_TIMEOUT_S = 60.0


@click.command()
@click.argument("directory")  # no click.Path: that would stat a mount that may not answer
@folder_options
@json_option
def umount(directory: str, state_dir: str | None, cache_dir: str | None, as_json: bool) -> None:
    """Unmount DIRECTORY: return when everything is stored and published and the volume is free for others.

    The URL of a volume stands for the directory that it is mounted on. However long storing takes it is waited for, as
    long as the mount's process gives a sign of life.
    """
    from cas3fs.fuse.mountpoints import MountEntry, mount_at, unmount

    target = find_target_or_lost(volume_url(directory), find_local_folders(state_dir, cache_dir))
    if isinstance(target, MountEntry):
        unmount(target.mountpoint)
        click.echo(f"the mount on {target.mountpoint} had lost its process; it is cleaned up, mount again to go on")
        return
    if target is None:
        is_url = "://" in directory
        raise MountError(f"{directory} is not {'mounted on this machine' if is_url else 'a mount of cas3fs'}")
    mount = mount_at(target.mountpoint)  # gone where the process is ending already, and perhaps another volume's since
    with progress_bar("storing") as progress:
        result = _end(target, progress, mounted=mount is not None and mount.url == target.url)
    if as_json:
        told = {"snapshot": result.get("snapshot"), "unstored": result.get("unstored", [])}
        print_json(told | {"refused": result.get("refused", 0)})
    if result.get("unstored"):
        raise FilesNotStored(str(result["told"]))
    if result.get("refused"):
        raise IndexRowRefused(
            f"{directory} is unmounted and released, but {result['refused']:,} files are not as programs left them: "
            "the index did not take their attributes; the log names them"
        )


def _end(target: Target, progress: Progress, *, mounted: bool) -> Message:
    """What the mount's process told at its end."""
    from cas3fs.fuse.mountpoints import unmount

    with ControlClient(target.socket) as asking, ControlClient(target.socket) as ending:
        process = _watch(int(asking.call("status")["pid"]))
        try:
            if mounted:
                _store(asking, progress, target)
                ending.ask("end")
                unmount(target.mountpoint)
            else:
                ending.ask("end")
            result = _await_end(ending, progress, target)
            _await_exit(process, target)
            return result
        finally:
            os.close(process)


def _store(client: ControlClient, progress: Progress, target: Target) -> None:
    try:
        client.call("store", progress=progress)
    except StoreError as error:
        raise StoreError(
            f"{error}; {target.mountpoint} stays mounted, and what is not in the store is safe in the state folder"
        ) from error
    except IndexDatabaseError as error:
        raise type(error)(
            f"{error}; {target.mountpoint} stays mounted, as its process alone has what was changed last: "
            "mend that, or let umount(8) end it, upon which it goes on trying"
        ) from error


def _await_end(client: ControlClient, progress: Progress, target: Target) -> Message:
    try:
        return client.result(progress)
    except Fenced as error:
        raise Fenced(f"{target.mountpoint} is unmounted, and its last changes are not published: {error}") from error
    except IndexDatabaseError as error:
        raise type(error)(
            f"{error}; the volume is unmounted and not released, and what was changed last may not be on the local disk"
        ) from error
    except StoreError as error:
        raise StoreError(
            f"{error}; the volume is unmounted, and what is not in the store is safe in the state folder: "
            f"mount {target.url} here again to go on"
        ) from error


def _watch(pid: int) -> int:
    """A descriptor that becomes readable when the process ends."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise MountError(f"the mount's process {pid} cannot be watched: {error.strerror}") from error


def _await_exit(process: int, target: Target) -> None:
    poller = select.poll()
    poller.register(process, select.POLLIN)
    if not poller.poll(int(_END_TIMEOUT_S * 1000)):
        raise MountError(f"{target.mountpoint} is unmounted and stored, but its process does not end; see its log")
