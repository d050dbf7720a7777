# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs gc``: delete what is not referenced."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from cas3fs.cli.common import Duration, Size, VolumeArgument, json_option, print_json, volume_argument
from cas3fs.cli.costs import dollars, planned_usd, price_option
from cas3fs.cli.printable import printable
from cas3fs.cli.progress import progress_bar
from cas3fs.maintenance.gc.request import GcResult, GcSettings
from cas3fs.prices import PriceTable
from cas3fs.units import format_duration, format_size

if TYPE_CHECKING:
    from cas3fs.control.messages.maintenance import GcPlanReply

_DEFAULTS: Final = GcSettings()


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would be done, and what it would free and cost.")
@click.option(
    "--min-live",
    type=click.FloatRange(0, 1),
    default=_DEFAULTS.min_live,
    show_default=True,
    help="Rewrite packs of which a smaller share is used, if that saves money; 0: none.",
)
@click.option("--max-rewrite", type=Size(), help="Copy at most this much when rewriting packs.")
@click.option(
    "--grace",
    type=Duration(),
    default=_DEFAULTS.grace_s,
    help=f"Keep unreferenced objects that are younger.  [default: {format_duration(int(_DEFAULTS.grace_s))}]",
)
@click.option(
    "--reencrypt",
    is_flag=True,
    help="After `cas3fs key rotate`: seal anew what is sealed with older keys, and drop these when nothing is.",
)
@price_option
@volume_argument
@json_option
def gc(
    *,
    volume: VolumeArgument,
    dry_run: bool,
    min_live: float,
    max_rewrite: int | None,
    grace: float,
    reencrypt: bool,
    prices: PriceTable,
    as_json: bool,
) -> int:
    """Delete unreferenced blocks and packs, and leftovers of failed uploads.

    What a snapshot needs is kept until that snapshot is deleted. Nothing is deleted when a listing or a snapshot could
    not be read. If an object cannot be deleted, or a block is damaged, gc skips it and exits with status 1.

    Example: cas3fs gc --dry-run s3://bucket/volume
    """
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.conversion import encode_reply
    from cas3fs.control.messages.maintenance import GcPlanRequest, GcRequest

    target = volume.find()
    problems: tuple[str, ...] = ()
    with progress_bar("collecting garbage") as progress:
        if dry_run:
            plan = carry_out(target, GcPlanRequest(min_live, max_rewrite, grace, reencrypt), progress)
            plan.requests["price_usd"] = planned_usd(_counts(plan.requests), prices)
            report, lines = encode_reply(plan), _plan_lines(plan)
        else:
            result = carry_out(target, GcRequest(min_live, max_rewrite, grace, reencrypt), progress)
            report, lines, problems = encode_reply(result), _result_lines(result), result.problems
    if as_json:
        print_json(report)
    else:
        click.echo("\n".join(lines))
    for problem in problems:
        click.echo(f"cas3fs: {printable(' '.join(problem.split()))}", err=True)
    return int(bool(problems))


def _counts(requests: Mapping[str, Any]) -> dict[str, int]:
    return {kind: requests[kind] for kind in ("lists", "gets", "puts", "deletes")}


def _plan_lines(plan: "GcPlanReply") -> Iterator[str]:
    yield f"unreferenced blocks: {plan.dead_blocks:,}, {format_size(plan.dead_block_bytes)}"
    yield f"packs with no other blocks: {plan.dead_packs:,}, {format_size(plan.dead_pack_bytes)}"
    yield f"would be freed now: {plan.free_packs:,} packs, {format_size(plan.free_bytes)}"
    if plan.rewrite_packs:
        frees, copied = format_size(plan.rewrite_frees_bytes), format_size(plan.rewrite_bytes)
        later = f"frees {frees} once no snapshot needs the old packs"
        yield f"would be rewritten: {plan.rewrite_packs:,} packs, {copied} to copy; {later}"
    yield from _left_lines(plan.left)
    for verdict, count in plan.strays.items():
        yield f"orphans, {verdict}: {count:,}"
    counts = ", ".join(f"{count:,} {name}" for name, count in _counts(plan.requests).items())
    yield f"requests: about {counts}; {dollars(plan.requests['price_usd'])}"
    if plan.held:
        yield "unreferenced packs that snapshots still need:"
        yield f"  {'snapshot':<20} {'needs':>10} {'freed without it':>18} {'and all older ones':>20}"
    for held in plan.held:
        sizes = [format_size(held[name]) for name in ("bytes", "bytes_alone", "bytes_with_older")]
        yield f"  {held['snapshot']:<20} {sizes[0]:>10} {sizes[1]:>18} {sizes[2]:>20}"


def _result_lines(result: GcResult) -> Iterator[str]:
    yield f"freed: {result.deleted_packs:,} packs, {format_size(result.freed_bytes)}"
    if result.dropped_blocks:
        yield f"unreferenced blocks dropped: {result.dropped_blocks:,}"
    if result.rewritten_packs:
        yield f"rewritten: {result.rewritten_packs:,} packs, {format_size(result.rewritten_bytes)} copied"
    yield from _left_lines(result.left)
    if result.deleted_strays:
        yield f"orphans deleted: {result.deleted_strays:,}, {format_size(result.stray_bytes)}"
    if result.held_bytes:
        later = "a gc frees it once these are deleted; `cas3fs gc --dry-run` lists them"
        yield f"needed by older snapshots: {format_size(result.held_bytes)}; {later}"
    if result.hurt_snapshots:
        yield f"snapshots that cannot be restored: {', '.join(result.hurt_snapshots)}; `cas3fs fsck` shows why"
    yield from _reencryption_lines(result.reencryption)
    if result.strays_left:
        yield f"orphans left: {result.strays_left:,}; `cas3fs gc --dry-run` shows why"


def _reencryption_lines(done: Mapping[str, Any]) -> Iterator[str]:
    """The lines that tell whether older generations of the keys could be dropped, and what still needs them."""
    if not done:
        return
    if done["dropped"]:
        yield f"generations of the keys dropped: {', '.join(map(str, done['dropped']))}"
    if not done["left_objects"]:
        yield "nothing in the store needs older keys" if not done["kept"] else "older keys are kept for now"
    else:
        kept = ", ".join(map(str, done["kept"]))
        yield f"sealed with older keys ({kept}): {done['left_objects']:,} objects, {format_size(done['left_bytes'])}"
    for one in done["snapshots"]:
        yield f"  needed by snapshot {one['snapshot']}: {format_size(one['bytes'])}"
    if done["other_bytes"]:
        yield f"  needed by no older snapshot: {format_size(done['other_bytes'])}; a later gc goes on"
    if done["waits"]:
        yield f"  {done['waits']}"


def _left_lines(left: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Packs that are not rewritten, although a small share of them is used."""
    for one in left:
        example = f", such as {one['snapshot']}" if one["snapshot"] else ""
        yield f"not rewritten: {one['packs']:,} packs, {format_size(one['bytes'])} unused: {one['why']}{example}"
