# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs snapshot``: creates, lists, restores, deletes and reads the states of a volume.

Where the volume is mounted on this machine its process does what concerns the snapshots; else this one does, and
claims the volume for as long as it changes anything.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cas3fs.cli.common import (
    Duration,
    Target,
    find_target_of,
    folder_options,
    json_option,
    not_a_mount,
    print_json,
    refuse_unstored,
    store_options,
    store_settings,
)
from cas3fs.cli.progress import progress_bar
from cas3fs.config import LocalFolders, StoreSettings, find_local_folders, format_duration, format_size
from cas3fs.control import Message, Progress
from cas3fs.errors import MountError, SnapshotError, UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])
_RULES = ("last", "hourly", "daily", "weekly", "monthly")


@click.group()
def snapshot() -> None:
    """Create, list, restore, delete and read snapshots: the states of a volume that are kept.

    One is published every few minutes when something has changed, and at umount; a policy thins them out.
    """


def _volume_options(command: _Command) -> _Command:
    """VOLUME, where state is kept, and how to reach the store, as one value: `Volume`."""

    def wrapped(
        volume: str, state_dir: str | None, cache_dir: str | None, endpoint_url: str | None, **rest: Any
    ) -> Any:
        return command(Volume(volume, state_dir, cache_dir, endpoint_url), **rest)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    return click.argument("volume")(folder_options(store_options(wrapped)))  # type: ignore[return-value]


class Volume:
    """The volume that a command is about."""

    def __init__(self, named: str, state_dir: str | None, cache_dir: str | None, endpoint_url: str | None) -> None:
        self._named = named
        self._endpoint_url = endpoint_url
        self.folders: LocalFolders = find_local_folders(state_dir, cache_dir)
        self.target: Target | None = find_target_of(named, state_dir, cache_dir, endpoint_url)

    @property
    def settings(self) -> StoreSettings:
        """How to reach its store from here."""
        if self.target is None and "://" not in self._named:
            raise not_a_mount(self._named)
        return store_settings(self._named if self.target is None else self.target.url, self._endpoint_url)

    def ask(self, verb: str, args: Message, progress: Progress | None = None) -> Message:
        """What the process of the mount answers."""
        from cas3fs.control import ControlClient

        assert self.target is not None
        with ControlClient(self.target.socket) as client:
            return client.call(verb, args, progress)


@snapshot.command()
@_volume_options
@click.option("--name", help="A name: the default policy keeps named snapshots until they are deleted.")
@json_option
def create(volume: Volume, *, name: str | None, as_json: bool) -> None:
    """Publish a snapshot of VOLUME now."""
    from cas3fs.commands.snapshot import create_offline

    with progress_bar("storing") as progress:
        if volume.target is not None:
            made = volume.ask("snapshot-create", {"name": name}, progress)
        else:
            made = create_offline(volume.settings, volume.folders, name, progress)
    if as_json:
        print_json(made)
    else:
        click.echo(f"snapshot {made['id']}: {made['files']:,} files, {format_size(made['logical_bytes'])}")
    refuse_unstored(made)


@snapshot.command("list")
@_volume_options
@json_option
def list_(volume: Volume, *, as_json: bool) -> None:
    """List the snapshots of VOLUME, the newest last."""
    found = _list(volume)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no snapshots")
        return
    click.echo(f"{'id':<20} {'time (UTC)':<19} {'epoch':>6} {'files':>10} {'size':>10} {'new':>10}  name")
    for one in found:
        click.echo(_line(one))


def _list(volume: Volume) -> list[Message]:
    from cas3fs.commands.snapshot import list_snapshots, open_archive

    if volume.target is None:
        with open_archive(volume.settings) as archive:
            return list(list_snapshots(archive))
    found: list[Message] = []

    def take(message: Message) -> None:
        if "snapshot" in message:
            found.append(message["snapshot"])

    volume.ask("snapshots", {}, take)
    return found


def _line(one: Message) -> str:
    if "damaged" in one:
        return f"{one['id']:<20} damaged: {one['damaged']}"
    notes = [one["name"] or ""]
    if one["restored"]:
        notes.append(f"(restored from {one['restored']})")
    if one["off_line"]:
        notes.append("(by a writer that had been taken over from)")
    size, new = format_size(one["logical_bytes"]), format_size(one["new_bytes"])
    told = f"{one['id']:<20} {one['time'][:19]:<19} {one['epoch']:>6} {one['files']:>10,} {size:>10} {new:>10}"
    return f"{told}  {' '.join(note for note in notes if note)}".rstrip()


@snapshot.command()
@_volume_options
@click.argument("snapshot_id", metavar="ID")
@json_option
def show(volume: Volume, *, snapshot_id: str, as_json: bool) -> None:
    """Tell all about the snapshot ID of VOLUME."""
    from cas3fs.commands.snapshot import open_archive, show_snapshot

    if volume.target is not None:
        told = volume.ask("snapshot-show", {"id": snapshot_id})
    else:
        with open_archive(volume.settings) as archive:
            told = show_snapshot(archive, snapshot_id)
    if as_json:
        print_json(told)
        return
    facts, pages = told.pop("facts"), told.pop("pages")
    for name, value in (told | facts | {"pages objects": len(pages)}).items():
        click.echo(f"{name.replace('_', ' '):<16} {_shown(name, value)}".rstrip())


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes"):
        return f"{value:,} ({format_size(value)})"
    if name == "time":
        return f"{value[:19]} (UTC)"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


@snapshot.command()
@_volume_options
@click.argument("snapshot_id", metavar="ID")
@json_option
def restore(volume: Volume, *, snapshot_id: str, as_json: bool) -> None:
    """Make the state of snapshot ID the newest one of VOLUME, which must not be mounted anywhere.

    The state that it replaces stays a snapshot, and can be restored in the same way.
    """
    from cas3fs.commands.restore import restore_head
    from cas3fs.commands.snapshot import describe

    if volume.target is not None:
        raise MountError(
            f"{volume.target.url} is mounted on {volume.target.mountpoint}; unmount it to restore a snapshot, or look "
            f"into it with `cas3fs mount --snapshot {snapshot_id}`"
        )
    with progress_bar("restoring") as progress:
        made = restore_head(volume.settings, volume.folders, snapshot_id, progress)
    if as_json:
        print_json(describe(made, made.id, frozenset()))
    else:
        click.echo(f"{snapshot_id} is restored; the newest snapshot is {made.id}, the one before {made.parent}")


@snapshot.command()
@_volume_options
@click.argument("snapshot_ids", metavar="ID...", nargs=-1, required=True)
@json_option
def delete(volume: Volume, *, snapshot_ids: tuple[str, ...], as_json: bool) -> None:
    """Delete snapshots of VOLUME; `cas3fs gc` then frees what only they needed."""
    from cas3fs.commands.snapshot import delete_offline

    ids = list(dict.fromkeys(snapshot_ids))
    if volume.target is not None:
        told = volume.ask("snapshot-delete", {"ids": ids})
    else:
        told = delete_offline(volume.settings, volume.folders, ids)
    if as_json:
        print_json(told)
    else:
        click.echo(f"snapshots deleted: {len(told['removed'])}; their indexes took {format_size(told['bytes_freed'])}")


def _policy_options(command: _Command) -> _Command:
    for rule in reversed(_RULES):
        told = "the last N" if rule == "last" else f"the newest of each of the last N {_periods(rule)} that have any"
        command = click.option(f"--keep-{rule}", type=click.IntRange(0), metavar="N", help=f"Keep {told}.")(command)
    command = click.option("--keep-within", type=Duration(), help="Keep all that are at most so old.")(command)
    return click.option(
        "--keep-name", "names", multiple=True, metavar="GLOB", help="Keep those whose names match; repeatable."
    )(command)


def _periods(rule: str) -> str:
    return {"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months"}[rule]


def _policy(names: tuple[str, ...], rules: dict[str, Any]) -> Message | None:
    """The policy that options make, as a message; None where none was given."""
    within_s = rules.pop("keep_within")
    numbers = {name.removeprefix("keep_"): value for name, value in rules.items() if value is not None}
    if within_s is not None:
        numbers["within_s"] = int(within_s)
    if not numbers and not names:
        return None
    return {**numbers, "names": list(names)}


@snapshot.command()
@_volume_options
@_policy_options
@click.option("--dry-run", is_flag=True, help="Tell what would be deleted.")
@json_option
def prune(volume: Volume, *, names: tuple[str, ...], dry_run: bool, as_json: bool, **rules: Any) -> None:
    """Delete the snapshots of VOLUME that no rule keeps.

    The rules are those given here, and no others, or else the volume's own (`cas3fs snapshot policy`). The newest
    snapshot always stays.
    """
    from cas3fs.commands.snapshot import prune_offline, read_policy

    policy = _policy(names, rules)
    if volume.target is not None:
        told = volume.ask("snapshot-prune", {"policy": policy, "dry_run": dry_run})
    else:
        told = prune_offline(volume.settings, volume.folders, read_policy(policy), dry_run=dry_run)
    if as_json:
        print_json(told)
        return
    for one in told["kept"]:
        why = ", ".join(one["kept_by"]) + (f" {one['name']}" if one["name"] else "")
        click.echo(f"{'keep' if dry_run else 'kept':<8} {one['id']}  {one['time'][:19]}  {why}")
    for one in told["removed"]:
        click.echo(f"{'delete' if dry_run else 'deleted':<8} {one}")
    kept, removed, freed = len(told["kept"]), len(told["removed"]), format_size(told["bytes_freed"])
    counts = f"{kept} to be kept, {removed} to be deleted" if dry_run else f"{kept} kept, {removed} deleted"
    click.echo(f"{counts}; their indexes take {freed}, and `cas3fs gc` frees what only they need")


@snapshot.command()
@_volume_options
@_policy_options
@json_option
def policy(volume: Volume, *, names: tuple[str, ...], as_json: bool, **rules: Any) -> None:
    """Tell which snapshots of VOLUME are kept as time goes by; with options, keep those from now on.

    All rules are replaced at once. What no rule keeps is deleted after the next snapshot is published.
    """
    from cas3fs.commands.snapshot import policy_offline, read_policy

    wanted = _policy(names, rules)
    if volume.target is not None:
        told = volume.ask("snapshot-policy", {"policy": wanted})
    else:
        told = policy_offline(volume.settings, read_policy(wanted))
    if as_json:
        print_json(told)
        return
    click.echo(f"{'within':<8} {format_duration(told['within_s'])}")
    for rule in _RULES:
        click.echo(f"{rule:<8} {told[rule]}")
    click.echo(f"{'names':<8} {' '.join(told['names'])}")


@snapshot.command()
@_volume_options
@click.argument("snapshot_id", metavar="ID")
@click.argument("path")
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@json_option
def extract(volume: Volume, *, snapshot_id: str, path: str, destination: Path, as_json: bool) -> None:
    """Copy PATH, a file or a tree of the snapshot ID of VOLUME, to DEST, without a mount."""
    from cas3fs.commands.extract import extract as extract_from

    if not destination.absolute().parent.is_dir():
        raise UsageError(f"{destination.absolute().parent} is not a folder")
    with progress_bar("extracting") as progress:
        result = extract_from(volume.settings, volume.folders, snapshot_id, path, destination, progress=progress)
    if as_json:
        print_json({"files": result.files, "bytes": result.size_bytes, "problems": result.problems})
    else:
        click.echo(f"{result.files:,} files and folders, {format_size(result.size_bytes)}")
    if result.problems:
        more = f", and {len(result.problems) - 1} more" if len(result.problems) > 1 else ""
        raise SnapshotError(f"not everything could be copied: {result.problems[0]}{more}")
