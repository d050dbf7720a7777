# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs umount``: store everything, publish, release the volume, and only then return.

The order: first everything is stored while programs may still use the mount, as that takes longest and may fail; then
the kernel removes the mount, which it refuses while the mount is in use; then the process of the mount stores what was
written in between, publishes and ends. When a step fails the later ones are left out, and nothing is lost: it is on the
local disk.
"""

import os
import select
from typing import TYPE_CHECKING

import click

from cas3fs.cli.common import find_mount_or_dead, folder_options, json_option, print_json, volume_url
from cas3fs.cli.progress import progress_bar
from cas3fs.config import find_local_folders
from cas3fs.control import ControlClient, Progress
from cas3fs.errors import Fenced, FilesNotStored, IndexDatabaseError, IndexRowRefused, MountError, StoreError

if TYPE_CHECKING:
    from cas3fs.commands.requests import LocalMount
    from cas3fs.control.messages.mount import EndReply

_EXIT_TIMEOUT_S = 60.0


@click.command()
@click.argument("directory")  # no click.Path: that would stat a mount that may not respond
@folder_options
@json_option
def umount(directory: str, state_dir: str | None, cache_dir: str | None, as_json: bool) -> None:
    """Store everything, publish a snapshot, unmount DIRECTORY and release the volume.

    The URL of a volume stands for the directory that it is mounted on. The command waits for the store as long as the
    process of the mount responds.

    Example: cas3fs umount /mnt/volume
    """
    from cas3fs.fuse.mountpoints import MountEntry, mount_at, unmount

    mount = find_mount_or_dead(volume_url(directory), find_local_folders(state_dir, cache_dir))
    if isinstance(mount, MountEntry):
        unmount(mount.mountpoint)
        click.echo(
            f"the process of the mount on {mount.mountpoint} is gone; the mount is removed: mount again to continue"
        )
        return
    if mount is None:
        is_url = "://" in directory
        raise MountError(f"{directory} is not {'mounted on this machine' if is_url else 'a mount of cas3fs'}")
    entry = mount_at(mount.mountpoint)  # gone where the process is ending already, and perhaps another volume's since
    with progress_bar("storing") as progress:
        reply = _end(mount, progress, mounted=entry is not None and entry.url == mount.url)
    if as_json:
        print_json({"snapshot": reply.snapshot, "unstored": reply.unstored, "refused": reply.refused})
    elif reply.snapshot is not None:
        click.echo(f"released, with snapshot {reply.snapshot}")
    if reply.unstored:
        raise FilesNotStored(reply.told)
    if reply.refused:
        raise IndexRowRefused(
            f"{directory} is unmounted and released, but {reply.refused:,} files are not as programs left them: "
            "the index did not accept their attributes; the log names them"
        )


def _end(mount: "LocalMount", progress: Progress, *, mounted: bool) -> "EndReply":
    """The report of the process of the mount at its end."""
    from cas3fs.control.messages.mount import EndRequest, StatusRequest
    from cas3fs.fuse.mountpoints import unmount

    with ControlClient(mount.socket) as asking, ControlClient(mount.socket) as ending:
        process = _watch(asking.request(StatusRequest()).pid)
        try:
            if mounted:
                _store(asking, progress, mount)
                ending.send(EndRequest())
                unmount(mount.mountpoint)
            else:
                ending.send(EndRequest())
            reply = _await_end(ending, progress, mount)
            _await_exit(process, mount)
            return reply
        finally:
            os.close(process)


def _store(client: ControlClient, progress: Progress, mount: "LocalMount") -> None:
    from cas3fs.control.messages.mount import StoreRequest

    try:
        client.request(StoreRequest(), progress)
    except StoreError as error:
        raise StoreError(
            f"{error}; {mount.mountpoint} stays mounted, and what is not in the store is safe in the state directory"
        ) from error
    except IndexDatabaseError as error:
        raise type(error)(
            f"{error}; {mount.mountpoint} stays mounted, as only its process has the last changes: "
            "repair the local disk, or run umount(8), after which the process keeps trying"
        ) from error


def _await_end(client: ControlClient, progress: Progress, mount: "LocalMount") -> "EndReply":
    from cas3fs.control.messages.mount import EndRequest

    try:
        return client.reply(EndRequest(), progress)
    except Fenced as error:
        raise Fenced(f"{mount.mountpoint} is unmounted, and its last changes are not published: {error}") from error
    except IndexDatabaseError as error:
        raise type(error)(
            f"{error}; the volume is unmounted and not released, and the last changes may not be on the local disk"
        ) from error
    except StoreError as error:
        raise StoreError(
            f"{error}; the volume is unmounted, and what is not in the store is safe in the state directory: "
            f"mount {mount.url} here again to continue"
        ) from error


def _watch(pid: int) -> int:
    """A descriptor that becomes readable when the process ends."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise MountError(f"the mount's process {pid} cannot be watched: {error.strerror}") from error


def _await_exit(process: int, mount: "LocalMount") -> None:
    poller = select.poll()
    poller.register(process, select.POLLIN)
    if not poller.poll(int(_EXIT_TIMEOUT_S * 1000)):
        raise MountError(f"{mount.mountpoint} is unmounted and stored, but its process does not end; see its log")
