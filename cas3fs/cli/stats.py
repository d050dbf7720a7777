# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs stats``: what a volume holds, and what deduplication and compression save."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from cas3fs.cli.common import VolumeArgument, json_option, print_json, volume_argument
from cas3fs.cli.costs import cost_report, cost_rows, price_option
from cas3fs.prices import PriceTable
from cas3fs.units import format_age, format_size, format_time

if TYPE_CHECKING:
    from cas3fs.control.messages.mount import StatsReply

_SIZES: Final[Mapping[str, str]] = {
    "logical_bytes": "size of all files",
    "chunk_bytes": "data in them",
    "unique_bytes": "after deduplication",
    "stored_bytes": "after compression",
    "pack_bytes": "in the store",
}
_MOST_UNSTORED: Final = 10
_STATUSES: Final[Mapping[int, str]] = {0: "clean", 1: "all errors repaired", 4: "errors remain"}
_COUNTS: Final[Mapping[str, str]] = {"files": "files", "directories": "folders", "symlinks": "symbolic links"}
_Rows = list[tuple[str, str]]


@click.command()
@price_option
@volume_argument
@json_option
def stats(*, volume: VolumeArgument, prices: PriceTable, as_json: bool) -> None:
    """Show files and sizes, what deduplication and compression save, and costs.

    For a mounted VOLUME also what is not stored yet, errors in the background, caches and requests.

    Example: cas3fs stats --json /mnt/volume
    """
    from cas3fs.commands.requests import carry_out
    from cas3fs.control.messages.mount import StatsRequest

    reply = carry_out(volume.find(), StatsRequest())
    costs = cost_report(reply.process or {}, reply.pack_bytes + (reply.snapshot_bytes or 0), prices)
    if as_json:
        from cas3fs.control.conversion import encode_reply

        print_json(encode_reply(reply) | {"spending": costs})
        return
    for line in _lines(reply, costs):
        click.echo(line)


def _lines(stats: "StatsReply", costs: Mapping[str, Any]) -> list[str]:
    rows = [
        *_volume_rows(stats),
        *_size_rows(stats),
        *_unstored_rows(stats),
        *_trouble_rows(stats.troubles or {}),
        *_pause_rows(stats.process or {}),
        *_maintenance_rows(stats.maintenance),
        *_cache_rows(stats.process or {}),
        *(() if stats.url.startswith("file:") else cost_rows(costs)),
    ]
    width = max(len(title) for title, _ in rows)
    return [f"{title:<{width}}  {value}" for title, value in rows]


def _volume_rows(stats: "StatsReply") -> _Rows:
    rows = [("volume", stats.url)]
    if stats.label:
        rows.append(("label", stats.label))
    if stats.cipher:
        rows.append(("encrypted with", f"{stats.cipher}; fingerprint {stats.fingerprint}"))
    rows.append(("mounted on", stats.mountpoint or "not mounted"))
    if stats.read_only:
        rows.append(("read-only", stats.read_only_reason or "yes"))
    if stats.not_on_disk_reason:
        rows.append(("not on the local disk", f"the last changes: {stats.not_on_disk_reason}"))
    return [*rows, _snapshot_row(stats)]


def _snapshot_row(stats: "StatsReply") -> tuple[str, str]:
    snapshot = stats.snapshot or "none"
    if not stats.is_view:
        age_s = (stats.snapshots or {}).get("newest_age_s")
        return "newest snapshot", snapshot if age_s is None else f"{snapshot}, taken {format_age(age_s)} ago"
    if stats.snapshot_gone:
        snapshot += "; it was deleted, so parts may be unreadable: unmount it, and mount another"
    return "shown snapshot", snapshot


def _size_rows(stats: "StatsReply") -> _Rows:
    rows = [(title, f"{getattr(stats, name):,}") for name, title in _COUNTS.items()]
    rows += [(title, format_size(getattr(stats, name))) for name, title in _SIZES.items()]
    rows.append(("objects with data (packs)", f"{stats.packs:,}"))
    if stats.dead_packs:
        rows.append(("of that for snapshots", f"{format_size(stats.dead_pack_bytes)}, or until the next gc"))
    indexes = stats.snapshot_bytes
    rows.append(
        (
            "indexes of snapshots",
            "known from the first snapshot of this mount on" if indexes is None else format_size(indexes),
        )
    )
    rows.append(("deduplication", f"{stats.dedup_ratio:.2f} to 1"))
    rows.append(("compression", f"{stats.compression_ratio:.2f} to 1"))
    return rows


def _unstored_rows(stats: "StatsReply") -> _Rows:
    rows, process, unstored = [], stats.process or {}, stats.unstored or []
    if stats.pending is not None:
        size = format_size(stats.pending["size_bytes"])
        rows.append(("not yet stored", f"{stats.pending['files']:,} files, {size}"))
    if refused := process.get("inodes.refused"):
        rows.append(("not saved", f"attributes of {refused:,} files; the log names them"))
    if aside := process.get("staging.put_aside"):
        rows.append(("set aside", f"{aside:,} damaged records of staged data; the log and fsck name them"))
    rows += [("cannot be stored", f"{one['path']}: {one['reason']}") for one in unstored[:_MOST_UNSTORED]]
    if len(unstored) > _MOST_UNSTORED:
        rows.append(("cannot be stored", f"{len(unstored) - _MOST_UNSTORED:,} more files; --json lists them"))
    return rows


def _trouble_rows(troubles: Mapping[str, Any]) -> _Rows:
    """The last error of each background task."""
    rows = []
    for name, trouble in troubles.items():
        times = "" if trouble["times"] == 1 else f" ({trouble['times']:,} times)"
        rows.append((f"last error of {name}", f"{format_time(trouble['time'])}{times}: {trouble['error']}"))
    return rows


def _pause_rows(process: Mapping[str, Any]) -> _Rows:
    """How long changes waited for a snapshot."""
    last_s, longest_s = (process.get(f"checkpoint.{name}_pause_s", 0.0) for name in ("last", "longest"))
    if not longest_s:
        return []
    return [("writing stopped", f"for the last snapshot {last_s * 1000:.1f} ms, at most {longest_s * 1000:.1f} ms")]


def _maintenance_rows(last: Mapping[str, Any]) -> _Rows:
    """What gc, fsck and reading the data found last, on this machine."""
    rows = []
    if "gc" in last:
        gc = last["gc"]
        needed = f"; snapshots need {format_size(gc['held_bytes'])} more" if gc["held_bytes"] else ""
        rows.append(("last gc", f"{format_time(gc['time'])}: {format_size(gc['freed_bytes'])} freed{needed}"))
        rows += [("skipped by it", problem) for problem in gc.get("problems", ())]
    if "fsck" in last:
        fsck = last["fsck"]
        codes = "".join(f"; {code} {count:,}" for code, count in sorted(fsck["codes"].items()))
        rows.append(("last fsck", f"{format_time(fsck['time'])}: {_STATUSES[fsck['status']]}{codes}"))
    if "verify" in last:
        verify = last["verify"]
        rest = "all data read" if verify["is_complete"] else "not all data read yet"
        damaged = f"{verify['damaged']:,} damaged" if verify["damaged"] else "none damaged"
        rows.append(
            ("last data check", f"{format_time(verify['time'])}: {verify['blocks']:,} blocks, {damaged}, {rest}")
        )
    return rows


def _cache_rows(process: Mapping[str, Any]) -> _Rows:
    """How many lookups each cache answered, in the order of the mount's list."""
    lookups = {"memory": (process.get("reader.memory_hits", 0), process.get("reader.misses", 0))}
    for name, hits in process.items():
        if name.startswith("cache.") and name.endswith(".hits"):
            tier = name.split(".")[1]
            lookups[tier] = (hits, process.get(f"cache.{tier}.misses", 0))
    lookups["memory"] = (lookups["memory"][0], lookups["memory"][1] + process.get("reader.cache_hits", 0))
    found = [f"{tier} {hits:,} of {hits + misses:,}" for tier, (hits, misses) in lookups.items() if hits + misses]
    return [("found in caches", ", ".join(found))] if found else []
