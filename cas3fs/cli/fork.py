# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs fork``: give a copied volume an identity of its own."""

import click

from cas3fs.cli.common import VolumeArgument, json_option, log_to_stderr, print_json, volume_argument
from cas3fs.errors import MountError


@click.command()
@click.option(
    "--take-over",
    is_flag=True,
    help="Fork although a writer has not released VOLUME, because that writer uses the original.",
)
@volume_argument
@json_option
def fork(*, volume: VolumeArgument, take_over: bool, as_json: bool) -> None:
    """Give VOLUME, a copy of another volume, an identity of its own.

    Copy the bucket or the folder first, and fork the copy before it is mounted. If the original was mounted meanwhile,
    the copy appears to be held by that mount: --take-over ends that, in the copy only.

    Example: cas3fs fork s3://bucket/copy
    """
    from cas3fs.commands.fork import fork as fork_volume

    log_to_stderr(False)
    target = volume.find()
    if target.mount is not None:
        raise MountError(
            f"{target.mount.url} is mounted on {target.mount.mountpoint}: unmount it first; or is it the original?"
        )
    forked = fork_volume(target.store, take_over=take_over)
    if as_json:
        print_json(forked)
    else:
        click.echo(f"{forked['url']} is now volume {forked['uuid']}")
