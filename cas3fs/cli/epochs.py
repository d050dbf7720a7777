# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs epochs``: who has written a volume, one after the other; and giving up what a writer that was taken over
from has left."""

from collections.abc import Mapping
from typing import Final

import click

from cas3fs.cli.common import (
    find_target_of,
    folder_options,
    json_option,
    not_a_mount,
    print_json,
    store_options,
    store_settings,
)

_MOST: Final = 10
_TOLD: Final[Mapping[str, str]] = {
    "held": "held",
    "released": "released",
    "continued": "crashed, then gone on with",
    "overruled": "taken over, not released",
}


@click.command()
@click.argument("volume")
@click.option(
    "--release",
    type=click.IntRange(1),
    metavar="EPOCH",
    help="Declare that nobody needs any more what the writer of EPOCH stored and never published.",
)
@folder_options
@store_options
@json_option
def epochs(
    *,
    volume: str,
    release: int | None,
    state_dir: str | None,
    cache_dir: str | None,
    endpoint_url: str | None,
    as_json: bool,
) -> None:
    """Tell who has written VOLUME lately: each mount for writing is an epoch.

    When a writer is taken over from, what it had stored and not published stays in the store, for `cas3fs rescue` on
    its machine. Once that is done, or if that machine is gone, --release lets `cas3fs gc` free it.
    """
    from cas3fs.commands.epochs import list_epochs, release_epoch

    target = find_target_of(volume, state_dir, cache_dir, endpoint_url)
    if target is None and "://" not in volume:
        raise not_a_mount(volume)
    url = volume if target is None else target.url
    settings = store_settings(url, endpoint_url)
    if release is not None:
        done = release_epoch(settings, release)
        if as_json:
            print_json({"epoch": release, "released": done})
        else:
            told = "is released: gc may free what it left" if done else "needs no release: its writer has ended well"
            click.echo(f"epoch {release} {told}")
        return
    found = list_epochs(settings, _MOST)
    if as_json:
        print_json(found)
        return
    click.echo(f"{'epoch':>6}  {'since (UTC)':<19}  {'standing':<26}  {'host':<20}  {'user':<10}  process")
    for one in found:
        click.echo(
            f"{one['epoch']:>6}  {one['time'][:19]:<19}  {_TOLD[one['standing']]:<26}  {one['host']:<20}  "
            f"{one['user']:<10}  {one['pid']}"
        )
    for one in found:
        if one["standing"] == "overruled":
            click.echo(
                f"what epoch {one['epoch']} stored and never published stays for `cas3fs rescue` on {one['host']}, "
                f"until `cas3fs epochs {url} --release {one['epoch']}`"
            )
