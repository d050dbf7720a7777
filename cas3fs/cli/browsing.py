# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs snapshot ls``, ``find`` and ``diff``: look into snapshots without mounting them."""

import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from cas3fs.cli.common import VolumeArgument, json_option, print_json, refuse_unstored, volume_argument
from cas3fs.cli.printable import printable, system_error
from cas3fs.cli.progress import progress_bar
from cas3fs.control import Message
from cas3fs.errors import Cas3fsError, MountError, SnapshotError
from cas3fs.units import format_size, format_time

if TYPE_CHECKING:
    from cas3fs.commands.browse import Looking
    from cas3fs.commands.requests import VolumeTarget

DIFFERENT: Final = 1
TROUBLE: Final = 2
"""Exit statuses of ``snapshot diff``, as those of diff(1)."""
_NOW: Final = "now"
_KINDS: Final[Mapping[str, int]] = {
    "file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK, "character device": stat.S_IFCHR, "block device": stat.S_IFBLK,
}  # fmt: skip
_LETTERS: Final[Mapping[str, str]] = {"added": "+", "removed": "-", "renamed": "R"}


def report_damage(snapshot: str, error: SnapshotError) -> None:
    """Say on standard error which snapshot is left out, and why."""
    click.echo(f"cas3fs: {printable(f'snapshot {snapshot} is left out: {error}')}", err=True)


@contextmanager
def looking(target: "VolumeTarget") -> Iterator["Looking"]:
    """What the functions of `cas3fs.commands.browse` need to look into the volume."""
    from cas3fs.commands.browse import Looking

    with progress_bar("reading") as progress:
        yield Looking(target.store, target.folders, progress, report_damage)


def shown_path(path: str, kind: str) -> str:
    """A path as it is shown: that of a folder with a slash."""
    return f"{path or '.'}/" if kind == "directory" else path


@click.command()
@volume_argument
@click.argument("snapshot_id", metavar="SNAPSHOT")
@click.argument("path", default="")
@json_option
def ls(volume: VolumeArgument, *, snapshot_id: str, path: str, as_json: bool) -> None:
    """List the folder PATH as SNAPSHOT has it, with modes, owners, sizes and times.

    Example: cas3fs snapshot ls s3://bucket/volume @2h photos
    """
    from cas3fs.commands.browse import list_folder

    with looking(volume.find()) as look:
        found = list(list_folder(look, snapshot_id, path))
    if as_json:
        print_json(found)
        return
    widths = [max((len(str(one[name])) for one in found), default=0) for name in ("links", "uid", "gid", "size")]
    for one in found:
        numbers = [f"{one[name]:>{width}}" for name, width in zip(("links", "uid", "gid", "size"), widths, strict=True)]
        arrow = "" if one["target"] is None else f" -> {one['target']}"
        mode = stat.filemode(_KINDS.get(one["type"], 0) | one["mode"])
        click.echo(f"{mode} {' '.join(numbers)} {format_time(one['mtime'])} {one['name']}{arrow}")


@click.command()
@volume_argument
@click.argument("pattern", metavar="GLOB")
@click.option("--in", "snapshot_id", metavar="SNAPSHOT", help="Search this snapshot.  [default: all]")
@click.option("--below", metavar="PATH", default="", help="Search below this folder.")
@json_option
def find(volume: VolumeArgument, *, pattern: str, snapshot_id: str | None, below: str, as_json: bool) -> int:
    """Find files by name in all snapshots, and show which snapshots have them.

    GLOB is a pattern as of a shell. It is compared with names, or, if it has a slash, with whole paths; then * stands
    for slashes too. Exit status: 0 if there is any, 1 if there is none.

    Example: cas3fs snapshot find s3://bucket/volume 'letter*.odt'
    """
    from cas3fs.commands.browse import find as search

    with looking(volume.find()) as look:
        found = search(look, pattern, snapshot_id, below)
    if as_json:
        print_json(found)
    else:
        for one in found:
            click.echo(_found_line(one))
    return 0 if found else DIFFERENT


def _found_line(one: Message) -> str:
    snapshots = one["snapshots"]
    first, last = snapshots[0], snapshots[-1]
    where = f"in {last['id']} of {format_time(last['time'])}"
    if len(snapshots) > 1:
        where = f"in {len(snapshots)} snapshots, {first['id']} to {last['id']} of {format_time(last['time'])}"
    return f"{shown_path(one['path'], one['type'])}  {format_size(one['size'])}  {where}"


@click.command()
@volume_argument
@click.argument("old", metavar="A")
@click.argument("new", metavar="[B]", default="latest")
@click.argument("path", default="")
@json_option
def diff(volume: VolumeArgument, *, old: str, new: str, path: str, as_json: bool) -> int:
    """Show what differs between the snapshots A and B (the newest if it is not given), at PATH or below.

    B may be `now`: what the mount has at this moment, of which a snapshot is published first. A line begins with + for
    what was added, - removed, M another content, U other attributes, R renamed. What lies below a renamed folder is not
    listed unless it changed.

    Exit status, as of diff(1): 0 if nothing differs, 1 if something does, 2 if they cannot be compared.

    Example: cas3fs snapshot diff /mnt/volume @1d now Documents
    """
    try:
        target = volume.find()
        if new == _NOW:
            old, new = _with_now(target, old)
        changes = _differences(target, old, new, path)
        if as_json:
            found = list(changes)
            print_json(found)
            return DIFFERENT if found else 0
        differs = 0
        for one in changes:
            click.echo(_change_line(one))
            differs = DIFFERENT
        return differs
    except Cas3fsError as error:
        text = str(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        text = system_error(error)
    click.echo(f"cas3fs: {printable(' '.join(text.split()))}", err=True)
    return TROUBLE


def _differences(target: "VolumeTarget", old: str, new: str, path: str) -> Iterable[Message]:
    from cas3fs.commands.browse import diff as compare

    with looking(target) as look:
        yield from compare(look, old, new, path)


def _with_now(target: "VolumeTarget", old: str) -> tuple[str, str]:
    """Publish what the mount has now; the id of the old snapshot, found before that, and of the new one."""
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.messages.mount import FlushRequest
    from cas3fs.control.messages.snapshots import ShowSnapshotRequest

    if target.mount is None:
        raise MountError(f"{target.store.url} is not mounted on this machine, so there is no `now`: use `latest`")
    found = carry_out(target, ShowSnapshotRequest(old)).id  # `latest` is another one afterwards
    reply = carry_out(target, FlushRequest())
    refuse_unstored(reply.unstored, reply.snapshot)
    return found, reply.snapshot


def _change_line(one: Message) -> str:
    old, new = one["old"], one["new"]
    kind = (new or old)["type"]
    path = shown_path(one["path"], kind)
    if one["old_path"] is not None:
        path = f"{shown_path(one['old_path'], kind)} -> {path}"
    letter = _LETTERS.get(one["change"], "M" if one["content"] else "U")
    return f"{letter} {path}{_change_sizes(old, new, is_same=one['change'] == 'renamed' and not one['content'])}"


def _change_sizes(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, *, is_same: bool) -> str:
    """What a line says of sizes: nothing of folders."""
    sizes = [f"{one['type']}" if one["type"] != "file" else format_size(one["size"]) for one in (old, new) if one]
    if is_same or set(sizes) == {"directory"}:
        return ""
    return f"  {' -> '.join(dict.fromkeys(sizes))}"
