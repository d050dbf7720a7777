# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs flush``: store and publish what was written so far."""

import click

from cas3fs.cli.common import VolumeArgument, folder_options, json_option, print_json, refuse_unstored
from cas3fs.cli.progress import progress_bar


@click.command()
@click.argument("volume")
@folder_options
@json_option
def flush(volume: str, state_dir: str | None, cache_dir: str | None, as_json: bool) -> None:
    """Store everything written so far, and publish a snapshot of it.

    VOLUME is mounted on this machine: its mount point, or its URL. The command returns when the snapshot is in the
    store.

    Example: cas3fs flush /mnt/volume
    """
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.conversion import encode_reply
    from cas3fs.control.messages.mount import FlushRequest

    target = VolumeArgument(volume, state_dir, cache_dir).find()
    with progress_bar("storing") as progress:
        reply = carry_out(target, FlushRequest(), progress)
    if as_json:
        print_json(encode_reply(reply))
    refuse_unstored(reply.unstored, reply.snapshot)
    if not as_json:
        click.echo(f"everything is in the store, in snapshot {reply.snapshot}")
