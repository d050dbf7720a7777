# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs fsck``: finds what is wrong with a volume, and mends it.

Exit status as fsck(8): 0 clean, 1 everything that was wrong is mended, 4 something is left, 8 it could not run.
"""

from typing import Any

import click

from cas3fs.cli.common import (
    Duration,
    find_target_of,
    json_option,
    places_options,
    print_json,
    store_options,
    store_settings,
)
from cas3fs.cli.progress import progress_bar
from cas3fs.config import find_places
from cas3fs.control import Message, Progress
from cas3fs.errors import Cas3fsError, MountError, UsageError

COULD_NOT_RUN = 8


@click.command()
@click.argument("volume")
@click.option("--repair", is_flag=True, help="Mend what is wrong; the volume must not be mounted. Deletes nothing.")
@click.option("--verify-data", is_flag=True, help="Read every block back and check its hash.")
@click.option("--max-duration", type=Duration(), help="Read back for so long; the next run goes on from there.")
@places_options
@store_options
@json_option
def fsck(
    *,
    volume: str,
    repair: bool,
    verify_data: bool,
    max_duration: float | None,
    state_dir: str | None,
    cache_dir: str | None,
    endpoint_url: str | None,
    as_json: bool,
) -> int:
    """Check VOLUME: the index, the objects in the store, snapshots, and data that waits to be stored.

    Exit status: 0 clean, 1 all mended, 4 something is left, 8 the check could not be done.
    """
    args: Message = {"repair": repair, "verify_data": verify_data, "max_duration_s": max_duration}
    findings: list[dict[str, Any]] = []
    try:
        with progress_bar("checking") as show:

            def take(told: Message) -> None:
                if "finding" in told:
                    findings.append(told["finding"])
                else:
                    show(told)

            told = _run(volume, args, take, state_dir=state_dir, cache_dir=cache_dir, endpoint_url=endpoint_url)
    except UsageError:
        raise
    except (Cas3fsError, OSError) as error:
        click.echo(f"cas3fs: {' '.join(str(error).split())}", err=True)
        return COULD_NOT_RUN
    if as_json:
        print_json(told | {"findings": findings})
    else:
        _print(told, findings)
    return int(told["status"])


def _run(
    volume: str,
    args: Message,
    progress: Progress,
    *,
    state_dir: str | None,
    cache_dir: str | None,
    endpoint_url: str | None,
) -> dict[str, Any]:
    from cas3fs.control import ControlClient

    target = find_target_of(volume, state_dir, cache_dir)
    if target is not None:
        with ControlClient(target.socket) as client:
            return client.call("fsck", args, progress)
    if "://" not in volume:
        raise MountError(f"{volume} is not a mount of cas3fs; for a volume that is not mounted give its URL")
    from cas3fs.assembly.checking import check_unmounted

    return check_unmounted(store_settings(volume, endpoint_url), find_places(state_dir, cache_dir), args, progress)


def _print(told: dict[str, Any], findings: list[dict[str, Any]]) -> None:
    for finding in findings:
        state = "repaired" if finding["repaired"] else finding["severity"]
        click.echo(f"{state}: {finding['code']}: {finding['text']} ({finding['detail'] or finding['touches']})")
        for path in finding["paths"]:
            click.echo(f"    {path}")
        if not finding["repaired"] and finding["severity"] != "note":
            click.echo(f"    repair: {finding['repair']}")
    verified = told["verified"]
    if verified is not None:
        rest = "" if verified["is_complete"] else "; the next run goes on from there"
        click.echo(f"read back: {verified['blocks']:,} blocks{rest}")
    summary = {
        0: "clean",
        1: "everything that was wrong is mended",
        4: "something is wrong: --repair mends what can be",
    }
    click.echo(summary[told["status"]])
