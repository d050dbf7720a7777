# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs stats``: what a volume holds, and what deduplication and compression saved."""

from collections.abc import Mapping
from typing import Any, Final

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
from cas3fs.cli.costs import cost_report, cost_rows, price_option
from cas3fs.config import find_local_folders, format_size
from cas3fs.prices import PriceTable
from cas3fs.units import format_age

_SIZES: Final[Mapping[str, str]] = {
    "logical_bytes": "size of all files",
    "chunk_bytes": "data in them",
    "unique_bytes": "after deduplication",
    "stored_bytes": "after compression",
    "pack_bytes": "in the store",
}
_MOST_UNSTORED: Final = 10
_STATUSES: Final[Mapping[int, str]] = {0: "clean", 1: "mended", 4: "something is wrong"}
_COUNTS: Final[Mapping[str, str]] = {"files": "files", "directories": "folders", "symlinks": "links", "packs": "packs"}


@click.command()
@click.argument("volume")
@folder_options
@store_options
@price_option
@json_option
def stats(
    *,
    volume: str,
    state_dir: str | None,
    cache_dir: str | None,
    endpoint_url: str | None,
    prices: PriceTable,
    as_json: bool,
) -> None:
    """Tell what VOLUME holds: files, logical, unique and stored bytes, what its mount has done, and what that costs."""
    report = _report(volume, state_dir, cache_dir, endpoint_url)
    report["spending"] = cost_report(
        report.get("process", {}), report["pack_bytes"] + (report.get("snapshot_bytes") or 0), prices
    )
    if as_json:
        print_json(report)
        return
    for line in _lines(report):
        click.echo(line)


def _report(volume: str, state_dir: str | None, cache_dir: str | None, endpoint_url: str | None) -> dict[str, Any]:
    from cas3fs.control import ControlClient

    target = find_target_of(volume, state_dir, cache_dir, endpoint_url)
    if target is not None:
        with ControlClient(target.socket) as client:
            return client.call("stats")
    if "://" not in volume:
        raise not_a_mount(volume)
    from cas3fs.commands.stats import unmounted_report

    return unmounted_report(store_settings(volume, endpoint_url), find_local_folders(state_dir, cache_dir))


def _lines(report: dict[str, Any]) -> list[str]:
    rows = [("volume", report["url"])]
    if report.get("label"):
        rows.append(("label", report["label"]))
    rows.append(("mounted on", report.get("mountpoint", "not mounted")))
    if report.get("read_only"):
        rows.append(("read-only", report.get("read_only_reason") or "yes"))
    if report.get("not_on_disk_reason"):
        rows.append(("not on the local disk", f"the last changes: {report['not_on_disk_reason']}"))
    rows.append(_snapshot(report))
    rows += [(title, f"{report[name]:,}") for name, title in _COUNTS.items()]
    rows += [(title, format_size(report[name])) for name, title in _SIZES.items()]
    if report.get("dead_packs"):
        rows.append(("of that for snapshots", f"{format_size(report['dead_pack_bytes'])}, or for a gc to free"))
    rows.append(("and for snapshots' indexes", _of_indexes(report.get("snapshot_bytes"))))
    rows.append(("deduplication", f"{report['dedup_ratio']:.2f} to 1"))
    rows.append(("compression", f"{report['compression_ratio']:.2f} to 1"))
    if "pending" in report:
        left = report["pending"]
        rows.append(("not yet stored", f"{left['files']:,} files, {format_size(left['size_bytes'])}"))
    if refused := report.get("process", {}).get("inodes.refused"):
        rows.append(("not kept", f"attributes of {refused:,} files; the log names them"))
    if aside := report.get("process", {}).get("staging.put_aside"):
        rows.append(("put aside", f"{aside:,} damaged records of staged bytes; the log names them, fsck too"))
    for one in report.get("unstored", [])[:_MOST_UNSTORED]:
        rows.append(("cannot be stored", f"{one['path']}: {one['reason']}"))
    if (count := len(report.get("unstored", []))) > _MOST_UNSTORED:
        rows.append(("cannot be stored", f"{count - _MOST_UNSTORED:,} more files; --json lists them"))
    rows += _troubles(report.get("troubles", {}))
    rows += _pauses(report.get("process", {}))
    rows += _upkeep(report.get("maintenance", {}))
    rows += _caches(report.get("process", {}))
    rows += cost_rows(report["spending"])
    width = max(len(title) for title, _ in rows)
    return [f"{title:<{width}}  {value}" for title, value in rows]


def _of_indexes(size_bytes: int | None) -> str:
    return "not known yet, and not in the price" if size_bytes is None else format_size(size_bytes)


def _snapshot(report: dict[str, Any]) -> tuple[str, str]:
    newest = report["snapshot"] or "none"
    if not report.get("is_view"):
        age_s = report.get("snapshots", {}).get("newest_age_s")
        return "newest snapshot", newest if age_s is None else f"{newest}, taken {format_age(age_s)} ago"
    gone = (
        "; it was deleted, so parts may be unreadable: unmount it, and mount another" if report["snapshot_gone"] else ""
    )
    return "shown snapshot", newest + gone


def _troubles(known: dict[str, Any]) -> list[tuple[str, str]]:
    """The last error of each thing that goes on in the background."""
    rows = []
    for name, trouble in known.items():
        often = "" if trouble["times"] == 1 else f" ({trouble['times']:,} times)"
        rows.append((f"last error of {name}", f"{_time(trouble)}{often}: {trouble['error']}"))
    return rows


def _pauses(process: dict[str, Any]) -> list[tuple[str, str]]:
    """How long operations stood still for a snapshot."""
    last_s, longest_s = (process.get(f"checkpoint.{name}_pause_s", 0.0) for name in ("last", "longest"))
    if not longest_s:
        return []
    return [("pause at a snapshot", f"last {last_s * 1000:.1f} ms, longest {longest_s * 1000:.1f} ms")]


def _upkeep(known: dict[str, Any]) -> list[tuple[str, str]]:
    """What gc, fsck and reading back found last, on this machine."""
    rows = []
    if "gc" in known:
        gc = known["gc"]
        held = f"; snapshots hold {format_size(gc['held_bytes'])} more" if gc["held_bytes"] else ""
        rows.append(("last gc", f"{_time(gc)}: {format_size(gc['freed_bytes'])} freed{held}"))
        rows += [("not done by it", problem) for problem in gc.get("problems", ())]
    if "fsck" in known:
        fsck = known["fsck"]
        codes = "".join(f"; {code} {count:,}" for code, count in sorted(fsck["codes"].items()))
        rows.append(("last fsck", f"{_time(fsck)}: {_STATUSES[fsck['status']]}{codes}"))
    if "verify" in known:
        verify = known["verify"]
        rest = "all read back" if verify["is_complete"] else "not all read back yet"
        damaged = f"{verify['damaged']:,} damaged" if verify["damaged"] else "none damaged"
        rows.append(("last read back", f"{_time(verify)}: {verify['blocks']:,} blocks, {damaged}, {rest}"))
    return rows


def _time(known: dict[str, Any]) -> str:
    return str(known["time"]).replace("T", " ").replace("+00:00", " UTC")


def _caches(process: dict[str, Any]) -> list[tuple[str, str]]:
    """How many of those who asked found their block, by cache, in the order of the mount's list."""
    asked = {"memory": (process.get("reader.memory_hits", 0), process.get("reader.misses", 0))}
    for name, hits in process.items():
        if name.startswith("cache.") and name.endswith(".hits"):
            tier = name.split(".")[1]
            asked[tier] = (hits, process.get(f"cache.{tier}.misses", 0))
    asked["memory"] = (asked["memory"][0], asked["memory"][1] + process.get("reader.cache_hits", 0))
    found = [f"{tier} {hits:,} of {hits + misses:,}" for tier, (hits, misses) in asked.items() if hits + misses]
    return [("found in caches", ", ".join(found))] if found else []
