# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs epochs``: list the writers of a volume, and give up what one of them left unpublished."""

from collections.abc import Mapping
from typing import Final

import click

from cas3fs.cli.common import VolumeArgument, json_option, print_json, volume_argument
from cas3fs.units import format_time

_MOST_SHOWN: Final = 10
_STANDINGS: Final[Mapping[str, str]] = {
    "held": "held",
    "released": "released",
    "continued": "crashed, then continued",
    "overruled": "taken over, not released",
}


@click.command()
@click.option(
    "--release",
    type=click.IntRange(1),
    metavar="EPOCH",
    help="Declare that what the writer of EPOCH stored and never published is no longer needed.",
)
@volume_argument
@json_option
def epochs(*, volume: VolumeArgument, release: int | None, as_json: bool) -> None:
    """List the last writers of VOLUME; each mount for writing is an epoch.

    When a writer is taken over from, what it stored and did not publish stays in the store, for `cas3fs rescue` on its
    machine. After that, or if that machine is lost, --release permits `cas3fs gc` to delete it.

    Example: cas3fs epochs s3://bucket/volume
    """
    from cas3fs.commands.epochs import list_epochs, release_epoch

    settings = volume.find().store
    if release is not None:
        done = release_epoch(settings, release)
        if as_json:
            print_json({"epoch": release, "released": done})
        elif done:
            click.echo(f"epoch {release} is released: `cas3fs gc` may delete what it left")
        else:
            click.echo(f"epoch {release} needs no release: its writer released it, or continued")
        return
    found = list_epochs(settings, _MOST_SHOWN)
    if as_json:
        print_json(found)
        return
    click.echo(f"{'epoch':>6}  {'since':<24}  {'state':<26}  {'host':<20}  {'user':<10}  process")
    for one in found:
        click.echo(
            f"{one['epoch']:>6}  {format_time(one['time']):<24}  {_STANDINGS[one['standing']]:<26}  {one['host']:<20}  "
            f"{one['user']:<10}  {one['pid']}"
        )
    for one in found:
        if one["standing"] == "overruled":
            click.echo(
                f"what epoch {one['epoch']} stored and never published is kept for `cas3fs rescue` on {one['host']}, "
                f"until `cas3fs epochs {settings.url} --release {one['epoch']}`"
            )
