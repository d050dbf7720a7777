# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs rescue``: save the files that only a state directory has."""

from pathlib import Path

import click

from cas3fs.cli.common import json_option, normal_url, print_json, store_options, store_settings
from cas3fs.cli.progress import progress_bar
from cas3fs.errors import SnapshotError, UsageError
from cas3fs.units import format_size


@click.command()
@click.argument("state", metavar="STATE-DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option("--volume", "url", metavar="URL", help="The volume, if the state directory does not name it.")
@store_options
@json_option
def rescue(*, state: Path, destination: Path, url: str | None, endpoint_url: str | None, as_json: bool) -> None:
    """Copy the files that only STATE-DIR has into the folder DEST.

    STATE-DIR is the folder of a writer that was taken over from, or one that a mount has set aside; it is only read.
    Every file that differs from the last published snapshot is saved: new, changed, moved or linked, whether its data
    is stored or not. Deletions are not reported.

    Example: cas3fs rescue ~/.local/state/cas3fs/UUID ~/rescued
    """
    from cas3fs.commands.rescue import choose_state_directory, find_endpoint, find_url
    from cas3fs.commands.rescue import rescue as save

    found = choose_state_directory(state)
    known = url or find_url(found)
    if known is None:
        raise UsageError(f"{found} does not name the volume that it belongs to: use --volume URL")
    endpoint = endpoint_url or (None if url else find_endpoint(found))
    with progress_bar("rescuing") as progress:
        report = save(store_settings(normal_url(known), endpoint), found, destination, progress)
    if as_json:
        print_json(report)
    else:
        click.echo(f"{report['files']:,} files, {format_size(report['bytes'])}, saved in {destination}")
        if report["aside"]:
            click.echo(f"records of staged data were damaged; what is left of them is in {report['aside']}")
        if report["overruled_epoch"] is not None and not report["problems"]:
            click.echo(
                "when nothing is missing, this permits gc to delete what else it left in the store: "
                f"cas3fs epochs {report['url']} --release {report['overruled_epoch']}"
            )
    if report["problems"]:
        more = f", and {len(report['problems']) - 1} more" if len(report["problems"]) > 1 else ""
        raise SnapshotError(f"not everything could be saved: {report['problems'][0]}{more}")
