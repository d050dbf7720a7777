# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments ``[VOLUME] PATH`` of verbs that are about a file: a path within a mount says where it is by itself."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click

from cas3fs.cli.common import VolumeArgument, folder_options, store_options
from cas3fs.errors import MountError, UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])


@attrs.frozen
class VolumePath:
    """A volume, and a path within it, without a slash at its ends."""

    volume: VolumeArgument
    path: str


def volume_path_arguments(command: _Command) -> _Command:
    """The arguments, and the options that say where the volume is, as one value ``where``: a `VolumePath`."""

    def wrapped(
        *args: Any,
        where: tuple[str, ...],
        state_dir: str | None,
        cache_dir: str | None,
        endpoint_url: str | None,
        **rest: Any,
    ) -> Any:
        named, path = _split(where)
        found = VolumePath(VolumeArgument(named, state_dir, cache_dir, endpoint_url), path)
        return command(*args, where=found, **rest)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    argument = click.argument("where", metavar="[VOLUME] PATH", nargs=-1, required=True)
    return argument(folder_options(store_options(wrapped)))  # type: ignore[return-value]


def _split(where: tuple[str, ...]) -> tuple[str, str]:
    if len(where) == 1 and "://" not in where[0]:
        return split_mount_path(where[0])
    if len(where) != 2:
        raise UsageError("give a path in a mount, or a volume and a path within it")
    return where[0], where[1].strip("/")


def split_mount_path(path: str) -> tuple[str, str]:
    """The mount point of the mount in which a path lies, which may not exist, and the path within the mount.

    Raises:
        MountError: it lies in none.
    """
    from cas3fs.fuse.mountpoints import list_mounts

    mountpoints = sorted((one.mountpoint for one in list_mounts()), key=lambda one: len(one.parts), reverse=True)
    absolute = Path(os.path.normpath(Path(path).absolute()))  # a link in the mount is not followed
    for candidate in (absolute, Path(os.path.realpath(absolute.parent)) / absolute.name):
        for mountpoint in mountpoints:
            if candidate.is_relative_to(mountpoint):
                inside = str(candidate.relative_to(mountpoint))
                return str(mountpoint), "" if inside == "." else inside
    raise MountError(f"{path} is not in a mount of cas3fs; for a volume that is not mounted give its URL and the path")
