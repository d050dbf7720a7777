# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs flush``: returns when everything written so far is in the store and published."""

import click

from cas3fs.cli.common import find_target_of, folder_options, json_option, print_json, refuse_unstored
from cas3fs.cli.progress import progress_bar
from cas3fs.errors import MountError


@click.command()
@click.argument("volume")
@folder_options
@json_option
def flush(volume: str, state_dir: str | None, cache_dir: str | None, as_json: bool) -> None:
    """Store everything written so far to VOLUME, and publish a snapshot that names it."""
    from cas3fs.control import ControlClient

    target = find_target_of(volume, state_dir, cache_dir)
    if target is None:
        raise MountError(f"{volume} is not mounted on this machine, so there is nothing to flush")
    with ControlClient(target.socket) as client, progress_bar("storing") as progress:
        result = client.call("flush", progress=progress)
    if as_json:
        print_json(result)
    refuse_unstored(result)
    if not as_json:
        click.echo(f"everything is in the store, in snapshot {result['snapshot']}")
