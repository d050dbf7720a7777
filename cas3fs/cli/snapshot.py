# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs snapshot``: create, list, show, restore, delete, prune and extract the saved states of a volume; `browsing`
has the commands that look into them.

Where the volume is mounted on this machine, the process of the mount does it. Else this process does, and claims the
volume while it changes anything.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from cas3fs.cli import browsing
from cas3fs.cli.common import (
    Duration,
    VolumeArgument,
    json_option,
    print_json,
    refuse_unstored,
    volume_argument,
)
from cas3fs.cli.progress import progress_bar
from cas3fs.control import Message
from cas3fs.errors import MountError, SnapshotError, UsageError
from cas3fs.units import format_duration, format_size, format_time

if TYPE_CHECKING:
    from cas3fs.snapshots.policy import RetentionPolicy

_Command = TypeVar("_Command", bound=Callable[..., Any])
_RULES: Final = ("last", "hourly", "daily", "weekly", "monthly")
_PERIODS: Final[Mapping[str, str]] = {"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months"}


@click.group()
def snapshot() -> None:
    """Create, list, show, restore, delete, prune and extract snapshots.

    A mount publishes a snapshot every few minutes if something has changed, and at umount. The retention policy of the
    volume decides how long each is kept.

    SNAPSHOT is an id, the beginning of one, a name, `latest`, an age such as @2h (the newest snapshot that is at least
    so old; also @30m, @3d, @1w), or a time such as '@2026-11-28 10:00'.
    """


@snapshot.command()
@volume_argument
@click.option("--name", help="A name; the default policy keeps named snapshots until they are deleted.")
@json_option
def create(volume: VolumeArgument, *, name: str | None, as_json: bool) -> None:
    """Publish a snapshot now.

    Example: cas3fs snapshot create --name before-upgrade /mnt/volume
    """
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.conversion import encode_reply
    from cas3fs.control.messages.snapshots import CreateSnapshotRequest

    target = volume.find()
    with progress_bar("storing") as progress:
        created = carry_out(target, CreateSnapshotRequest(name), progress)
    if as_json:
        print_json(encode_reply(created))
    else:
        click.echo(f"snapshot {created.id}: {created.files:,} files, {format_size(created.logical_bytes)}")
    refuse_unstored(created.unstored, created.id)


@snapshot.command("list")
@volume_argument
@json_option
def list_(volume: VolumeArgument, *, as_json: bool) -> None:
    """List the snapshots, the newest last.

    "added" is what a snapshot needs in the store and no listed one before it does. "frees" is what only it needs: after
    the snapshot was deleted, `cas3fs gc` frees that, and more where files were deleted since the last gc. Both are
    known where the volume is mounted, or was mounted last.

    Example: cas3fs snapshot list s3://bucket/volume
    """
    found = _list(volume)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no snapshots")
        return
    click.echo(f"{'id':<20} {'time':<24} {'files':>10} {'size':>10} {'added':>10} {'frees':>10}  name")
    for one in found:
        click.echo(_line(one))


def _list(volume: VolumeArgument) -> list[Message]:
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.messages.snapshots import ListSnapshotsRequest

    found: list[Message] = []

    def receive(report: Message) -> None:
        if "snapshot" in report:
            found.append(report["snapshot"])

    carry_out(volume.find(), ListSnapshotsRequest(), receive)
    return found


def _line(one: Message) -> str:
    if "damaged" in one:
        return f"{one['id']:<20} damaged: {one['damaged']}"
    notes = [one["name"] or ""]
    if one["restored"]:
        notes.append(f"(restored from {one['restored']})")
    if one["off_line"]:
        notes.append("(by a writer that had been taken over from)")
    size, added, frees = (_size(one.get(f"{what}_bytes")) for what in ("logical", "added", "frees"))
    columns = f"{one['id']:<20} {format_time(one['time']):<24} {one['files']:>10,} {size:>10} {added:>10} {frees:>10}"
    return f"{columns}  {' '.join(note for note in notes if note)}".rstrip()


def _size(size_bytes: int | None) -> str:
    """A size; a dash where it is not known."""
    return "-" if size_bytes is None else format_size(size_bytes)


@snapshot.command()
@volume_argument
@click.argument("snapshot_id", metavar="SNAPSHOT")
@json_option
def show(volume: VolumeArgument, *, snapshot_id: str, as_json: bool) -> None:
    """Show the details of SNAPSHOT.

    Example: cas3fs snapshot show s3://bucket/volume 00000007-0000000123
    """
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.conversion import encode_reply
    from cas3fs.control.messages.snapshots import ShowSnapshotRequest

    details = encode_reply(carry_out(volume.find(), ShowSnapshotRequest(snapshot_id)))
    if as_json:
        print_json(details)
        return
    facts, pages = details.pop("facts", {}), details.pop("pages", [])
    for name, value in (details | facts | {"pages objects": len(pages)}).items():
        click.echo(f"{name.replace('_', ' '):<16} {_formatted(name, value)}".rstrip())


def _formatted(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes"):
        return f"{value:,} ({format_size(value)})"
    if name == "time":
        return format_time(value)
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


for _command in (browsing.ls, browsing.find, browsing.diff):
    snapshot.add_command(_command)


@snapshot.command()
@volume_argument
@click.argument("snapshot_id", metavar="SNAPSHOT")
@json_option
def restore(volume: VolumeArgument, *, snapshot_id: str, as_json: bool) -> None:
    """Make the state of SNAPSHOT the newest; VOLUME must not be mounted anywhere.

    The replaced state is kept as a snapshot, and can be restored in the same way.

    Example: cas3fs snapshot restore s3://bucket/volume 00000007-0000000123
    """
    from cas3fs.commands.restore import restore_head
    from cas3fs.commands.snapshot import describe
    from cas3fs.control.conversion import encode_reply

    target = volume.find()
    if target.mount is not None:
        raise MountError(
            f"{target.mount.url} is mounted on {target.mount.mountpoint}: unmount it to restore a snapshot, or read "
            f"the snapshot with `cas3fs mount --snapshot {snapshot_id}`"
        )
    with progress_bar("restoring") as progress:
        restored = restore_head(target.store, target.folders, snapshot_id, progress)
    if as_json:
        print_json(encode_reply(describe(restored, restored.id, frozenset())))
    else:
        click.echo(
            f"the newest snapshot {restored.id} has the state of {restored.restored or restored.id}; the one before is "
            f"{restored.parent}"
        )


@snapshot.command()
@volume_argument
@click.argument("snapshot_ids", metavar="SNAPSHOT...", nargs=-1, required=True)
@json_option
def delete(volume: VolumeArgument, *, snapshot_ids: tuple[str, ...], as_json: bool) -> None:
    """Delete snapshots; `cas3fs gc` then frees what only they needed.

    Example: cas3fs snapshot delete s3://bucket/volume 00000007-0000000123
    """
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.conversion import encode_reply
    from cas3fs.control.messages.snapshots import DeleteSnapshotsRequest

    deleted = carry_out(volume.find(), DeleteSnapshotsRequest(list(dict.fromkeys(snapshot_ids))))
    if as_json:
        print_json(encode_reply(deleted))
    else:
        size = format_size(deleted.bytes_freed)
        for one in deleted.removed:
            click.echo(f"deleted {one}")
        click.echo(f"snapshots deleted: {len(deleted.removed)}; that freed {size} of their indexes")


def _policy_options(command: _Command) -> _Command:
    for rule in reversed(_RULES):
        what = "the last N" if rule == "last" else f"the newest of each of the last N {_PERIODS[rule]} that have any"
        command = click.option(f"--keep-{rule}", type=click.IntRange(0), metavar="N", help=f"Keep {what}.")(command)
    command = click.option("--keep-within", type=Duration(), help="Keep all that are at most this old.")(command)
    return click.option(
        "--keep-name", "names", multiple=True, metavar="GLOB", help="Keep those with a matching name; repeatable."
    )(command)


def _policy(names: tuple[str, ...], rules: dict[str, Any]) -> "RetentionPolicy | None":
    """The policy in the options; None where there is none."""
    from cas3fs.snapshots.policy import RetentionPolicy

    within_s = rules.pop("keep_within")
    numbers = {name.removeprefix("keep_"): value for name, value in rules.items() if value is not None}
    if within_s is not None:
        numbers["within_s"] = int(within_s)
    return RetentionPolicy(**numbers, names=names) if numbers or names else None


@snapshot.command()
@volume_argument
@_policy_options
@click.option("--dry-run", is_flag=True, help="Show what would be deleted.")
@json_option
def prune(volume: VolumeArgument, *, names: tuple[str, ...], dry_run: bool, as_json: bool, **rules: Any) -> None:
    """Delete the snapshots that no rule keeps.

    The rules are those in the options, or without any the volume's own (`cas3fs snapshot policy`). The newest snapshot
    is always kept.

    Example: cas3fs snapshot prune --dry-run --keep-daily 30 s3://bucket/volume
    """
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.conversion import encode_reply
    from cas3fs.control.messages.snapshots import PruneRequest

    reply = carry_out(volume.find(), PruneRequest(_policy(names, rules), dry_run))
    if as_json:
        print_json(encode_reply(reply))
        return
    for one in reply.kept:
        why = ", ".join(one["kept_by"]) + (f" {one['name']}" if one["name"] else "")
        click.echo(f"{'keep' if dry_run else 'kept':<8} {one['id']}  {format_time(one['time'])}  {why}")
    for removed in reply.removed:
        click.echo(f"{'delete' if dry_run else 'deleted':<8} {removed}")
    kept, deleted, size = len(reply.kept), len(reply.removed), format_size(reply.bytes_freed)
    if dry_run:
        click.echo(f"{kept} would be kept, {deleted} would be deleted; that would free {size} of their indexes")
    else:
        click.echo(f"{kept} kept, {deleted} deleted; that freed {size} of their indexes, `cas3fs gc` frees the rest")


@snapshot.command()
@volume_argument
@_policy_options
@json_option
def policy(volume: VolumeArgument, *, names: tuple[str, ...], as_json: bool, **rules: Any) -> None:
    """Show the retention policy; with options, replace it.

    The options replace all rules at once. What no rule keeps is deleted after the next snapshot is published.

    Example: cas3fs snapshot policy --keep-within 1d --keep-daily 30 s3://bucket/volume
    """
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.conversion import encode_reply
    from cas3fs.control.messages.snapshots import PolicyRequest

    in_force = carry_out(volume.find(), PolicyRequest(_policy(names, rules)))
    if as_json:
        print_json(encode_reply(in_force))
        return
    click.echo(f"{'within':<8} {format_duration(in_force.within_s)}")
    for rule in _RULES:
        click.echo(f"{rule:<8} {getattr(in_force, rule)}")
    click.echo(f"{'names':<8} {' '.join(in_force.names)}")


@snapshot.command()
@volume_argument
@click.argument("snapshot_id", metavar="SNAPSHOT")
@click.argument("path")
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@json_option
def extract(volume: VolumeArgument, *, snapshot_id: str, path: str, destination: Path, as_json: bool) -> None:
    """Copy PATH, a file or a tree in SNAPSHOT, to DEST without a mount.

    Example: cas3fs snapshot extract s3://bucket/volume 00000007-0000000123 photos/2024 /tmp/photos
    """
    from cas3fs.commands.extract import extract as extract_from

    if not destination.absolute().parent.is_dir():
        raise UsageError(f"{destination.absolute().parent} is not a folder")
    target = volume.find()
    with progress_bar("extracting") as progress:
        result = extract_from(target.store, target.folders, snapshot_id, path, destination, progress=progress)
    if as_json:
        print_json({"files": result.files, "bytes": result.size_bytes, "problems": result.problems})
    else:
        click.echo(f"{result.files:,} files and folders, {format_size(result.size_bytes)}")
    if result.problems:
        more = f", and {len(result.problems) - 1} more" if len(result.problems) > 1 else ""
        raise SnapshotError(f"not everything could be copied: {result.problems[0]}{more}")
