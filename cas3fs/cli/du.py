# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs du``: what files and folders take in the store, and what deleting them would free."""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from cas3fs.cli.common import VolumeArgument, folder_options, json_option, print_json, store_options
from cas3fs.control import Message
from cas3fs.errors import MountError
from cas3fs.units import format_size

if TYPE_CHECKING:
    from cas3fs.commands.requests import VolumeTarget

_COLUMNS: Final[Mapping[str, str]] = {
    "size": "logical_bytes",
    "allocated": "allocated_bytes",
    "stored": "stored_bytes",
    "unique": "unique_bytes",
    "in snapshots": "held_bytes",
}
_SORTED_BY: Final = ("size", "allocated", "stored", "unique", "path")
_MOST_DEPTH: Final = 1000
_WIDTH: Final = 13
_VOLUME_AND_PATH: Final = re.compile(r"(.+?):(/(?!/).*)", re.DOTALL)
_LEGEND: Final = (
    "Deleting a path frees its unique bytes: the next gc does, but those in snapshots stay until the snapshots are "
    "deleted."
)


@attrs.frozen
class _Root:
    """A PATH of the command line."""

    named: str
    volume: str
    """The URL or mount point of its volume."""
    inode: int | None = None
    """Of a mounted volume."""
    path: str = "/"
    """Without `inode`: the path from the root of the volume."""

    def below(self, path: str) -> str:
        """What a path below it is called."""
        if not path:
            return self.named
        is_url_alone = self.inode is None and not _VOLUME_AND_PATH.fullmatch(self.named)
        return f"{self.named}:/{path}" if is_url_alone else f"{self.named.rstrip('/')}/{path}"


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--depth", type=click.IntRange(0, _MOST_DEPTH), default=0, help="Also each folder so many levels below.")
@click.option("--sort", type=click.Choice(_SORTED_BY), default="size", show_default=True, help="What comes first.")
@folder_options
@store_options
@json_option
def du(
    *,
    paths: Sequence[str],
    depth: int,
    sort: str,
    state_dir: str | None,
    cache_dir: str | None,
    endpoint_url: str | None,
    as_json: bool,
) -> None:
    """Show what files and folders take, and what deleting them would free.

    PATH is a file or folder of a mounted volume, or VOLUME:/PATH. For each: its size; without holes; what it takes in
    the store after deduplication and compression; of that, what nothing else needs; and of that, what snapshots need.

    Example: cas3fs du --depth 1 /mnt/volume
    """
    volumes: dict[str, list[_Root]] = {}
    for root in map(_root, paths):
        volumes.setdefault(root.volume, []).append(root)
    rows: list[Message] = []
    for volume, roots in volumes.items():
        target = VolumeArgument(volume, state_dir, cache_dir, endpoint_url).find()
        rows += _measure(target, roots, depth)
    rows.sort(key=lambda row: row["path"])
    if sort != "path":
        rows.sort(key=lambda row: row[_COLUMNS[sort]], reverse=True)
    if as_json:
        print_json(rows)
        return
    for line in _lines(rows):
        click.echo(line)


def _root(named: str) -> _Root:
    """What a PATH means.

    Raises:
        MountError: it is in no mount, and no volume.
        OSError: there is no such file.
    """
    from cas3fs.fuse.mountpoints import mount_of_device

    found = _VOLUME_AND_PATH.fullmatch(named)
    if "://" in named:
        return _Root(named, found[1], path=found[2]) if found else _Root(named, named)
    if found and _is_volume(found[1]) and not os.path.lexists(named):
        return _Root(named, found[1], path=found[2])
    try:
        status = os.lstat(named)
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise MountError(
                f"the process of the mount that has {named} is gone; `cas3fs umount` cleans it up"
            ) from error
        raise
    mount = mount_of_device(status.st_dev)
    if mount is not None:
        return _Root(named, str(mount.mountpoint), status.st_ino)
    if _is_volume(named):
        return _Root(named, named)
    raise MountError(f"{named} is not in a mount of cas3fs; of a volume that is not mounted give URL:/PATH")


def _is_volume(folder: str) -> bool:
    return (Path(folder) / "volume").is_file()


def _measure(target: "VolumeTarget", roots: Sequence[_Root], depth: int) -> list[Message]:
    """The rows of these paths of a volume."""
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.messages.usage import UsageRequest

    # in the order in which the rows number them
    ordered = [*(one for one in roots if one.inode is not None), *(one for one in roots if one.inode is None)]
    request = UsageRequest(
        inodes=[one.inode for one in ordered if one.inode is not None],
        paths=[one.path for one in ordered if one.inode is None],
        depth=depth,
    )
    rows: list[Message] = []

    def receive(report: Message) -> None:
        for row in report.get("usage", ()):
            named = ordered[row["root"]].below(row["path"])
            rows.append({name: value for name, value in row.items() if name != "root"} | {"path": named})

    carry_out(target, request, receive)
    return rows


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["".join(f"{name:>{_WIDTH}}" for name in _COLUMNS) + "  path"]
    for row in rows:
        sizes = (format_size(row[field]) for field in _COLUMNS.values())
        lines.append("".join(f"{size:>{_WIDTH}}" for size in sizes) + f"  {_one_line(row['path'])}")
    lines += ["", _LEGEND]
    for row in rows:
        if row["unstored_files"] and not row["depth"]:
            size, files = format_size(row["unstored_bytes"]), row["unstored_files"]
            what = f"{size} in {files:,} {'file' if files == 1 else 'files'} of {_one_line(row['path'])}"
            lines.append(f"Not stored yet, so neither in stored nor in unique: {what}")
    return lines


def _one_line(path: str) -> str:
    return path.replace("\n", r"\n")
