# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs fsck``: check a volume, and repair it.

Exit status as fsck(8): 0 clean, 1 all errors were repaired, 4 errors remain, 8 the check could not run.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from cas3fs.cli.common import Duration, VolumeArgument, json_option, print_json, volume_argument
from cas3fs.cli.printable import system_error
from cas3fs.cli.progress import progress_bar
from cas3fs.control import Message
from cas3fs.errors import Cas3fsError, UsageError

if TYPE_CHECKING:
    from cas3fs.control.messages.maintenance import FsckReply

COULD_NOT_RUN = 8
MOST_SHOWN = 10
"""Paths and ranges of a finding that are printed; ``--json`` has more."""


@click.command()
@click.option("--repair", is_flag=True, help="Repair errors; VOLUME must not be mounted. Deletes nothing.")
@click.option("--verify-data", is_flag=True, help="Read every block and snapshot from the store, and check the hashes.")
@click.option("--max-duration", type=Duration(), help="Stop reading after this time; the next run continues there.")
@volume_argument
@json_option
def fsck(*, volume: VolumeArgument, repair: bool, verify_data: bool, max_duration: float | None, as_json: bool) -> int:
    """Check the index, the objects in the store, the snapshots, and data that is not stored yet.

    Exit status: 0 clean, 1 all errors were repaired, 4 errors remain, 8 the check could not run.

    Example: cas3fs fsck --verify-data --max-duration 1h s3://bucket/volume
    """
    if max_duration is not None and not verify_data:
        raise UsageError("--max-duration limits how long data is read: use it with --verify-data")
    from cas3fs.control.conversion import encode_reply

    try:
        reply, findings = _check(volume, repair, verify_data, max_duration)
        lines = [] if as_json else list(_lines(reply, findings, repair=repair))
    except UsageError:
        raise
    except (Cas3fsError, OSError) as error:
        text = system_error(error) if isinstance(error, OSError) else str(error)
        click.echo(f"cas3fs: {' '.join(text.split())}", err=True)
        return COULD_NOT_RUN
    if as_json:
        print_json(encode_reply(reply) | {"findings": findings})
    for line in lines:
        click.echo(line)
    return reply.status


def _check(
    volume: VolumeArgument, repair: bool, verify_data: bool, max_duration_s: float | None
) -> tuple["FsckReply", list[Message]]:
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.messages.maintenance import FsckRequest

    findings: list[Message] = []
    with progress_bar("checking") as show:

        def receive(report: Message) -> None:
            if "finding" in report:
                findings.append(report["finding"])
            else:
                show(report)

        return carry_out(volume.find(), FsckRequest(repair, verify_data, max_duration_s), receive), findings


def _lines(reply: "FsckReply", findings: list[Message], *, repair: bool) -> Iterator[str]:
    for finding in findings:
        yield from _finding_lines(finding)
    yield from _result_lines(reply, repair=repair)


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


def _result_lines(reply: "FsckReply", *, repair: bool) -> Iterator[str]:
    checked, verified = reply.checked, reply.verified
    numbers = ", ".join(f"{checked[name]:,} {name}" for name in ("packs", "snapshots", "objects") if name in checked)
    yield f"checked: {checked['index']}; in the store {numbers}"
    if verified is None:
        yield "data: not read; --verify-data reads every block"
    else:
        rest = "that is all of it" if verified["is_complete"] else "the next run continues from there"
        yield f"data: {verified['blocks']:,} blocks and {verified['snapshots']:,} snapshots read; {rest}"
    yield _summary(reply, repair=repair)


def _summary(reply: "FsckReply", *, repair: bool) -> str:
    lost = (
        "parts of the files named above are lost: reading them gives an I/O error until a copy of the data is written "
        "again; an older snapshot may have it"
    )
    has_lost = reply.lost or "known-loss" in reply.codes
    if reply.status == 0:
        return f"clean, but {lost}" if has_lost else "clean"
    if reply.status == 1:
        return f"repaired, but {lost}" if has_lost else "all errors were repaired"
    return "errors remain that could not be repaired" if repair else "errors were found: --repair repairs what it can"
