# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs fsck``: finds what is wrong with a volume, and mends it.

Exit status as fsck(8): 0 clean, 1 everything that was wrong is mended, 4 something is left, 8 it could not run.
"""

from collections.abc import Iterator

import click

from cas3fs.cli.common import (
    Duration,
    Offline,
    carry_out,
    folder_options,
    json_option,
    print_json,
    store_options,
)
from cas3fs.cli.printable import system_error
from cas3fs.cli.progress import progress_bar
from cas3fs.control import Message
from cas3fs.errors import Cas3fsError, UsageError

COULD_NOT_RUN = 8
MOST_SHOWN = 10
"""Paths and ranges of a finding that are printed; ``--json`` gives more."""


@click.command()
@click.argument("volume")
@click.option("--repair", is_flag=True, help="Mend what is wrong; the volume must not be mounted. Deletes nothing.")
@click.option("--verify-data", is_flag=True, help="Read back what volume and snapshots need, and check hashes.")
@click.option("--max-duration", type=Duration(), help="Read back for so long; the next run goes on from there.")
@folder_options
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
    if max_duration is not None and not verify_data:
        raise UsageError("--max-duration limits reading back: it goes with --verify-data")
    args: Message = {"repair": repair, "verify_data": verify_data, "max_duration_s": max_duration}
    try:
        with progress_bar("checking") as show:
            findings: list[Message] = []

            def take(told: Message) -> None:
                if "finding" in told:
                    findings.append(told["finding"])
                else:
                    show(told)

            told = carry_out(
                "fsck",
                volume,
                args,
                take,
                _offline,
                state_dir=state_dir,
                cache_dir=cache_dir,
                endpoint_url=endpoint_url,
            )
        status = int(told["status"])
        lines = [] if as_json else list(_lines(told, findings, repair=repair))
    except UsageError:
        raise
    except (Cas3fsError, OSError) as error:
        told_error = system_error(error) if isinstance(error, OSError) else str(error)
        click.echo(f"cas3fs: {' '.join(told_error.split())}", err=True)
        return COULD_NOT_RUN
    if as_json:
        print_json(told | {"findings": findings})
    for line in lines:
        click.echo(line)
    return status


def _offline() -> Offline:
    from cas3fs.commands.fsck import check_unmounted

    return check_unmounted


def _lines(told: Message, findings: list[Message], *, repair: bool) -> Iterator[str]:
    for finding in findings:
        yield from _finding_lines(finding)
    yield from _result_lines(told, repair=repair)


def _finding_lines(finding: Message) -> Iterator[str]:
    is_repaired, is_note = finding["repaired"], finding["severity"] == "note"
    state = "lost" if is_repaired and finding["lost"] else "repaired" if is_repaired else finding["severity"]
    yield f"{state}: {finding['code']}: {finding['text']} ({finding['about']})"
    ranges = [f"{start:,} to {start + length - 1:,}" for start, length in finding["ranges"]]
    where = f" (bytes {', '.join(ranges[:MOST_SHOWN])})" if ranges and finding["path_count"] == 1 else ""
    for path in finding["paths"][:MOST_SHOWN]:
        yield f"    {path}{where}"
    if finding["path_count"] > MOST_SHOWN:
        yield f"    and {finding['path_count'] - MOST_SHOWN:,} more files"
    if not is_note:
        yield f"    {'done' if is_repaired else 'repair'}: {finding['repair']}"


def _result_lines(told: Message, *, repair: bool) -> Iterator[str]:
    checked, verified = told["checked"], told["verified"]
    numbers = ", ".join(f"{checked[name]:,} {name}" for name in ("packs", "snapshots", "objects") if name in checked)
    yield f"checked: {checked['index']}; in the store {numbers}"
    if verified is None:
        yield "read back: nothing; --verify-data reads all blocks"
    else:
        rest = "that is all" if verified["is_complete"] else "the next run goes on from there"
        yield f"read back: {verified['blocks']:,} blocks and {verified['snapshots']:,} snapshots; {rest}"
    yield _summary(told, repair=repair)


def _summary(told: Message, *, repair: bool) -> str:
    lost = (
        "parts of the files named above are lost: reading them gives an I/O error until copies of them are written "
        "again; an older snapshot may have them"
    )
    has_lost = told["lost"] or "known-loss" in told["codes"]
    if told["status"] == 0:
        return f"clean, but {lost}" if has_lost else "clean"
    if told["status"] == 1:
        return f"what was wrong is mended, but {lost}" if has_lost else "everything that was wrong is mended"
    return "something is left that could not be mended" if repair else "something is wrong: --repair mends what can be"
