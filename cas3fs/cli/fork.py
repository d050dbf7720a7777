# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs fork``: gives a copied volume an identity of its own."""

import click

from cas3fs.cli.common import (
    find_target_of,
    folder_options,
    json_option,
    log_to_stderr,
    print_json,
    store_options,
    store_settings,
)
from cas3fs.errors import MountError


@click.command()
@click.argument("volume")
@click.option(
    "--take-over", is_flag=True, help="Go on though a writer has not released VOLUME, as it works with the original."
)
@folder_options
@store_options
@json_option
def fork(
    *,
    volume: str,
    take_over: bool,
    state_dir: str | None,
    cache_dir: str | None,
    endpoint_url: str | None,
    as_json: bool,
) -> None:
    """Give VOLUME, a copy of another volume, an identity of its own.

    Copy the bucket or the folder first, and fork the copy before it is mounted. If the original was mounted meanwhile,
    the copy counts as held by that mount: --take-over ends that, in the copy alone.
    """
    from cas3fs.commands.fork import fork as make

    log_to_stderr(False)
    target = find_target_of(volume, state_dir, cache_dir, endpoint_url)
    if target is not None:
        raise MountError(f"{target.url} is mounted on {target.mountpoint}: unmount it first; or is it the original?")
    settings = store_settings(volume, endpoint_url)
    made = make(settings, take_over=take_over)
    if as_json:
        print_json(made)
    else:
        click.echo(f"{made['url']} is volume {made['uuid']} from now on")
