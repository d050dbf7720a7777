# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs copy``: copy a volume into another one."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from cas3fs.cli.common import (
    ask_passphrase,
    folder_options,
    has_terminal,
    json_option,
    log_to_stderr,
    normal_url,
    print_json,
    store_options,
    store_settings,
    verbose_option,
)
from cas3fs.cli.printable import printable
from cas3fs.cli.progress import progress_bar
from cas3fs.config import ExpectedState, SecretSettings, find_local_folders
from cas3fs.errors import UsageError
from cas3fs.units import format_size, format_time

if TYPE_CHECKING:
    from cas3fs.commands.copy import CopyResult

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="DEST")
@click.option("--snapshot", "snapshots", multiple=True, metavar="SNAPSHOT", help="Copy this snapshot only; repeatable.")
@click.option(
    "--all/--newest", "everything", default=None, help="Copy all snapshots, or only the newest.  [default: all]"
)
@click.option("--verify", is_flag=True, help="Read everything back from DEST, and compare it with SOURCE.")
@click.option(
    "--requests",
    type=click.IntRange(1, 128),
    default=8,
    show_default=True,
    help="Read, and store, so many objects at the same time.",
)
@click.option("--take-over", is_flag=True, help="Continue although another machine has begun the copy and is lost.")
@click.option("--source-endpoint-url", metavar="URL", help="S3 endpoint of SOURCE.  [default: as for DEST]")
@click.option("--source-profile", metavar="NAME", help="Profile of AWS's configuration for SOURCE, with its keys.")
@click.option("--source-passphrase-file", type=_FILE, help="File with the passphrase of SOURCE.")
@click.option("--source-key-file", type=_FILE, help="File that opens SOURCE.")
@click.option("--source-kms-key", metavar="TEXT", help="ARN of the key of AWS KMS that opens SOURCE.")
@folder_options
@store_options
@json_option
@verbose_option
def copy(
    *,
    source: str,
    destination: str,
    snapshots: tuple[str, ...],
    everything: bool | None,
    verify: bool,
    requests: int,
    take_over: bool,
    source_endpoint_url: str | None,
    source_profile: str | None,
    source_passphrase_file: Path | None,
    source_key_file: Path | None,
    source_kms_key: str | None,
    endpoint_url: str | None,
    state_dir: str | None,
    cache_dir: str | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Copy the volume SOURCE into DEST, which `cas3fs mkfs` has just made.

    DEST may be encrypted, cut and compressed in another way, or be at another provider. By default all snapshots are
    copied, with their names and times, and the retention policy. SOURCE is only read, and may be mounted. A copy that
    was interrupted continues when it is started again; started later, it adds new snapshots until DEST is mounted.

    Options without --source are about DEST.

    Example: cas3fs copy --verify s3://bucket/old s3://bucket/new
    """
    from cas3fs.commands.copy import CopyRequest, copy_volume, describe

    log_to_stderr(verbose)
    if snapshots and everything is not None:
        raise UsageError("--snapshot excludes --all and --newest")
    target = store_settings(normal_url(destination), endpoint_url)
    origin = attrs.evolve(
        target,
        url=normal_url(source),
        endpoint_url=source_endpoint_url or (None if source_profile else endpoint_url),
        profile=source_profile,
        expected=ExpectedState(),
        secrets=SecretSettings(
            passphrase_file=source_passphrase_file,
            key_file=source_key_file,
            kms_key=source_kms_key,
            ask=ask_passphrase if has_terminal() else None,
        ),
    )
    request = CopyRequest(snapshots, everything is False, verify, take_over, requests)
    folders = find_local_folders(state_dir, cache_dir)
    with progress_bar("copying", rate=True) as progress:
        result = copy_volume(origin, target, folders, request, progress)
    if as_json:
        print_json(describe(result))
    else:
        click.echo("\n".join(_lines(result)))
    for problem in result.problems:
        click.echo(f"cas3fs: {printable(' '.join(problem.split()))}", err=True)
    return int(bool(result.problems))


def _lines(result: "CopyResult") -> Iterator[str]:
    for one in result.snapshots:
        name = f" {one['name']}" if one["name"] else ""
        yield f"snapshot {one['source']} is copied as {one['id']}  {format_time(one['time'])}{name}"
    for skipped in result.skipped:
        yield f"snapshot {skipped['id']} is skipped: {skipped['why']}"
    if result.already_copied:
        yield f"copied before: {result.already_copied} snapshots"
    if not (result.snapshots or result.skipped or result.already_copied):
        yield "there is no snapshot to copy"
    if result.policy_copied:
        yield "the retention policy is copied"
    rate = format_size(result.read_bytes / result.seconds) if result.seconds else "0 B"
    yield f"read {format_size(result.read_bytes)}, stored {format_size(result.stored_bytes)}; {rate}/s"
    if result.verified is not None:
        done, size = result.verified.snapshots, format_size(result.verified.read_bytes)
        found = f"{result.verified.differences:,} differences" if result.verified.differences else "no difference"
        yield f"verified: {done} snapshots, {size} read back, {found}"
