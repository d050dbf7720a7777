# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs history``: the versions of a file."""

import click

from cas3fs.cli.browsing import looking
from cas3fs.cli.common import json_option, print_json
from cas3fs.cli.volume_paths import VolumePath, volume_path_arguments
from cas3fs.control import Message
from cas3fs.units import format_size, format_time


@click.command()
@volume_path_arguments
@json_option
def history(*, where: VolumePath, as_json: bool) -> None:
    """Show the versions of the file at PATH that snapshots have, the newest first.

    PATH lies in a mount, and need not exist any more; or it is the path within VOLUME. A version ends where size, time
    or content changed. `cas3fs snapshot extract` copies one out.

    Example: cas3fs history /mnt/volume/Documents/letter.txt
    """
    from cas3fs.commands.browse import history as versions

    with looking(where.volume.find()) as look:
        found = list(versions(look, where.path))
    if as_json:
        print_json(found)
        return
    click.echo(f"{'first seen':<24} {'last seen':<24} {'last snapshot':<20} {'size':>10}  modified")
    for one in found:
        click.echo(_line(one))


def _line(one: Message) -> str:
    first, last = one["first"], one["last"]
    size = format_size(one["size"]) if one["type"] == "file" else one["type"]
    times = f"{format_time(first['time']):<24} {format_time(last['time']):<24}"
    return f"{times} {last['id']:<20} {size:>10}  {format_time(one['mtime'])}"
