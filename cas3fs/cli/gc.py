# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs gc``: frees what nothing names."""

from collections.abc import Iterator

import click

from cas3fs.cli.common import (
    Duration,
    Offline,
    Size,
    carry_out,
    folder_options,
    json_option,
    print_json,
    store_options,
)
from cas3fs.cli.costs import dollars, planned_usd, price_option
from cas3fs.cli.printable import printable
from cas3fs.cli.progress import progress_bar
from cas3fs.config import format_size
from cas3fs.control import Message
from cas3fs.prices import PriceTable


@click.command()
@click.argument("volume")
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and what it would free and cost.")
@click.option(
    "--min-live",
    type=click.FloatRange(0, 1),
    default=0.7,
    show_default=True,
    help="Rewrite packs of which less than this part is used, where that pays; 0: none.",
)
@click.option("--max-rewrite", type=Size(), help="Copy no more than this.")
@click.option("--grace", type=Duration(), default=3600.0, help="Leave unknown objects that are younger.  [default: 1h]")
@folder_options
@store_options
@price_option
@json_option
def gc(
    *,
    volume: str,
    dry_run: bool,
    min_live: float,
    max_rewrite: int | None,
    grace: float,
    state_dir: str | None,
    cache_dir: str | None,
    endpoint_url: str | None,
    prices: PriceTable,
    as_json: bool,
) -> int:
    """Free what nothing names in VOLUME: blocks, packs, and what interrupted uploads have left.

    What a snapshot still needs stays until that goes. Nothing is deleted when a listing or a snapshot could not be
    read. An object that cannot be deleted, or a damaged block, keeps nothing else from being freed; the exit status is
    1 then.
    """
    args: Message = {"dry_run": dry_run, "min_live": min_live, "max_rewrite_bytes": max_rewrite, "grace_s": grace}
    with progress_bar("collecting") as progress:
        told = carry_out(
            "gc",
            volume,
            args,
            progress,
            _offline,
            state_dir=state_dir,
            cache_dir=cache_dir,
            endpoint_url=endpoint_url,
        )
    if dry_run:
        told["requests"]["price_usd"] = planned_usd(told["requests"], prices)
    problems = [] if dry_run else told.get("problems", ())
    lines = [] if as_json else list(_plan_lines(told) if dry_run else _result_lines(told))
    if as_json:
        print_json(told)
    for line in lines:
        click.echo(line)
    for problem in problems:
        click.echo(f"cas3fs: {printable(' '.join(problem.split()))}", err=True)
    return int(bool(problems))


def _offline() -> Offline:
    from cas3fs.commands.gc import collect_unmounted

    return collect_unmounted


def _plan_lines(plan: Message) -> Iterator[str]:
    yield f"blocks that no file names: {plan['dead_blocks']:,}, {format_size(plan['dead_block_bytes'])}"
    yield f"packs of nothing else: {plan['dead_packs']:,}, {format_size(plan['dead_pack_bytes'])}"
    yield f"freed now: {plan['free_packs']:,} packs, {format_size(plan['free_bytes'])}"
    if plan["rewrite_packs"]:
        frees, copied = format_size(plan["rewrite_frees_bytes"]), format_size(plan["rewrite_bytes"])
        then = f"{frees} are freed when no snapshot needs them"
        yield f"rewritten: {plan['rewrite_packs']:,} packs, {copied} to copy; {then}"
    yield from _left_lines(plan)
    for verdict, count in plan["strays"].items():
        yield f"unknown objects, {verdict}: {count:,}"
    requests = plan["requests"]
    counts = ", ".join(f"{requests[name]:,} {name}" for name in ("lists", "gets", "puts", "deletes"))
    yield f"requests: about {counts}; {dollars(requests['price_usd'])}"
    if plan["held"]:
        yield "dead packs that snapshots hold:"
        yield f"  {'snapshot':<20} {'holds':>10} {'freed if it goes':>18} {'and all older ones':>20}"
    for held in plan["held"]:
        sizes = [format_size(held[name]) for name in ("bytes", "bytes_alone", "bytes_with_older")]
        yield f"  {held['snapshot']:<20} {sizes[0]:>10} {sizes[1]:>18} {sizes[2]:>20}"


def _result_lines(result: Message) -> Iterator[str]:
    yield f"freed: {result['deleted_packs']:,} packs, {format_size(result['freed_bytes'])}"
    if result["dropped_blocks"]:
        yield f"blocks that no file names any more: {result['dropped_blocks']:,}"
    if result["rewritten_packs"]:
        yield f"rewritten: {result['rewritten_packs']:,} packs, {format_size(result['rewritten_bytes'])} copied"
    yield from _left_lines(result)
    if result["deleted_strays"]:
        yield f"unknown objects removed: {result['deleted_strays']:,}, {format_size(result['stray_bytes'])}"
    if result["held_bytes"]:
        yield f"held by snapshots: {format_size(result['held_bytes'])}; `cas3fs gc --dry-run` tells by which"
    if result.get("hurt_snapshots"):
        yield f"snapshots that cannot be restored: {', '.join(result['hurt_snapshots'])}; `cas3fs fsck` tells more"
    if result["strays_left"]:
        yield f"unknown objects left: {result['strays_left']:,}; `cas3fs gc --dry-run` tells why"


def _left_lines(told: Message) -> Iterator[str]:
    """Packs that are not rewritten, though little of them is used."""
    for left in told.get("left", ()):
        such = f", such as {left['snapshot']}" if left["snapshot"] else ""
        yield f"not rewritten: {left['packs']:,} packs, {format_size(left['bytes'])} unused: {left['why']}{such}"
