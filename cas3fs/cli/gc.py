# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs gc``: frees what nothing names."""

from collections.abc import Iterator
from typing import Any

import click

from cas3fs.cli.common import (
    Duration,
    Size,
    find_target_of,
    json_option,
    places_options,
    print_json,
    store_options,
    store_settings,
)
from cas3fs.cli.progress import progress_bar
from cas3fs.config import find_places, format_size
from cas3fs.control import Message, Progress
from cas3fs.errors import MountError


@click.command()
@click.argument("volume")
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and what it would free and cost.")
@click.option(
    "--min-live",
    type=click.FloatRange(0, 1),
    default=0.7,
    show_default=True,
    help="Rewrite packs of which less than this part is used; 0: none.",
)
@click.option("--max-rewrite", type=Size(), help="Copy no more than this.")
@click.option("--grace", type=Duration(), default=3600.0, help="Leave unknown objects that are younger.  [default: 1h]")
@places_options
@store_options
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
    as_json: bool,
) -> None:
    """Free what nothing names in VOLUME: blocks, packs, and what interrupted uploads have left.

    What a snapshot still needs stays until that goes. Nothing is deleted when anything could not be listed or read.
    """
    args: Message = {"dry_run": dry_run, "min_live": min_live, "max_rewrite_bytes": max_rewrite, "grace_s": grace}
    with progress_bar("collecting") as progress:
        told = _run(volume, args, progress, state_dir=state_dir, cache_dir=cache_dir, endpoint_url=endpoint_url)
    if as_json:
        print_json(told)
        return
    for line in _plan_lines(told) if dry_run else _result_lines(told):
        click.echo(line)


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
            return client.call("gc", args, progress)
    if "://" not in volume:
        raise MountError(f"{volume} is not a mount of cas3fs; for a volume that is not mounted give its URL")
    from cas3fs.assembly.upkeep import collect_unmounted

    return collect_unmounted(store_settings(volume, endpoint_url), find_places(state_dir, cache_dir), args, progress)


def _plan_lines(plan: dict[str, Any]) -> Iterator[str]:
    yield f"blocks that no file names: {plan['dead_blocks']:,}, {format_size(plan['dead_block_bytes'])}"
    yield f"packs of nothing else: {plan['dead_packs']:,}, {format_size(plan['dead_pack_bytes'])}"
    yield f"freed now: {plan['free_packs']:,} packs, {format_size(plan['free_bytes'])}"
    for held in plan["held"]:
        alone, all_bytes = format_size(held["bytes_alone"]), format_size(held["bytes"])
        yield f"snapshot {held['snapshot']} holds {all_bytes}; {alone} are freed if it alone goes"
    frees, copied = format_size(plan["rewrite_frees_bytes"]), format_size(plan["rewrite_bytes"])
    yield f"rewritten: {plan['rewrite_packs']:,} packs, {copied} to copy; {frees} are freed when no snapshot needs them"
    for verdict, count in plan["strays"].items():
        yield f"unknown objects, {verdict}: {count:,}"
    requests = plan["requests"]
    counts = ", ".join(f"{requests[name]:,} {name}" for name in ("lists", "gets", "puts", "deletes"))
    yield f"requests: about {counts}; ${requests['price_usd']:.4f} at Amazon's prices"


def _result_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"freed: {result['deleted_packs']:,} packs, {format_size(result['freed_bytes'])}"
    if result["rewritten_packs"]:
        yield f"rewritten: {result['rewritten_packs']:,} packs, {format_size(result['rewritten_bytes'])} copied"
    if result["deleted_strays"]:
        yield f"unknown objects removed: {result['deleted_strays']:,}, {format_size(result['stray_bytes'])}"
    if result["held_bytes"]:
        yield f"held by snapshots: {format_size(result['held_bytes'])}"
    if result["strays_left"]:
        yield f"unknown objects left: {result['strays_left']:,}; `cas3fs gc --dry-run` tells why"
