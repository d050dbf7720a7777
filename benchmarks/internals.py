# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that measure the internals of cas3fs by size, without subjects: snapshots, maintenance, crowd, scale.

Each yields figures with their limits; `./dev bench` adds them to the table of a run. ``crowd`` measures volumes with
very many objects of one kind (`many_objects.py`).
"""

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from benchmarks import backups, encryption, maintenance, many_objects, scale, snapshot_pruning, snapshots
from benchmarks.results import Bound

Program = Callable[[float], Iterator[Bound]]
"""Takes the scale of the run and yields figures; limits apply at full size only."""

PLAN_S, FSCK_S, MEMORY_MIB = 3.0, 8.0, 300.0
DU_S, DU_FILES = 2.0, 100_000
READ_BACK_MIB = 4096
RETAINED, MAX_GETS, MAX_LISTINGS, RETAINED_MIB = 200, 0.0, 8.0, 4.0
CROWD_GOALS: Final[Mapping[tuple[str, str], float]] = MappingProxyType(
    {
        ("100,000 packs", "gc plan"): 10.0,
        ("100,000 packs", "gc that drops unreferenced blocks"): 15.0,
        ("100,000 packs", "LIST requests of that gc"): 120,
        ("100,000 packs", "gc that deletes dead packs"): 30.0,
        ("100,000 packs", "longest stall during gc"): 100.0,
        ("100,000 packs", "fsck"): 10.0,
        ("100,000 packs", "memory over the idle volume"): 100.0,
        ("10,000 epochs", "claim"): 3.0,
        ("10,000 epochs", "requests of a claim"): 200,
        ("10,000 epochs", "find overruled epochs"): 1.0,
        ("10,000 epochs", "requests to find them"): 30,
        ("60,000 staged files", "create, last 500 files"): 300.0,
        ("60,000 staged files", "fsync of one more file"): 50.0,
    }
)


def run_snapshots(factor: float) -> Iterator[Bound]:
    """The cost of snapshots of volumes with many files."""
    for files, goals in snapshots.GOALS.items():
        scaled = max(1000, round(files * factor))
        folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
        try:
            for one in snapshots.measure(
                snapshots.SnapshotVolume(folder, scaled), goals if scaled == files else snapshots.Goals()
            ):
                yield Bound("snapshots", f"{scaled:,} files: {one.what}", one.unit, one.figure, one.goal)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    kept = max(20, round(RETAINED * factor))
    cost = snapshot_pruning.measure(kept)
    name = f"{kept:,} snapshots retained, pruning after a snapshot"
    yield Bound("snapshots", f"{name}: objects read", "", cost.gets, MAX_GETS)
    yield Bound("snapshots", f"{name}: listings", "", cost.listings, MAX_LISTINGS)
    yield Bound("snapshots", f"{name}: time", "s", cost.seconds)
    yield Bound("snapshots", f"{kept:,} snapshots retained: memory", "MiB", cost.memory_mib, RETAINED_MIB)


def run_maintenance(factor: float) -> Iterator[Bound]:
    """gc's plan, fsck and du by size, each in a process of its own, and verification of all data."""
    context = multiprocessing.get_context("spawn")
    for files in (10_000, 100_000, 1_000_000):
        scaled = max(1000, round(files * factor))
        with context.Pool(1) as pool:
            plan_s, fsck_s, du_s, memory_mib = pool.apply(maintenance.measure_index, (scaled,))
        name, full = f"{scaled:,} files", scaled == 1_000_000
        yield Bound("maintenance", f"{name}: gc plan", "s", plan_s, PLAN_S if full else None)
        yield Bound("maintenance", f"{name}: fsck", "s", fsck_s, FSCK_S if full else None)
        yield Bound("maintenance", f"{name}: du", "s", du_s, DU_S if scaled == DU_FILES else None)
        yield Bound("maintenance", f"{name}: memory", "MiB", memory_mib, MEMORY_MIB if full else None)
    mib = max(32, round(READ_BACK_MIB * factor))
    loop_s, verify_s = maintenance.measure_reading(mib)
    least = maintenance.MIN_SHARE_OF_LOOP if factor >= 1 else None
    yield Bound("maintenance", f"{mib:,} MiB verified", "of a plain loop", loop_s / verify_s, at_least=least)


def run_crowd(factor: float) -> Iterator[Bound]:
    """Very many objects of each kind, each in a process of its own."""
    packs, epochs, files = (max(1000, round(count * factor)) for count in (100_000, 10_000, 60_000))
    yield from _measure(f"{packs:,} packs", (many_objects.fill_packs, packs), (many_objects.measure_packs,), factor)
    yield from _measure(f"{epochs:,} epochs", None, (many_objects.measure_epochs, epochs), factor)
    yield from _measure(f"{files:,} staged files", None, (many_objects.measure_staged, files), factor)


def _measure(name: str, fill: tuple[Any, ...] | None, measure: tuple[Any, ...], factor: float) -> Iterator[Bound]:
    """The figures of `measure` for what `fill` has made: functions that take a folder, with further arguments."""
    context = multiprocessing.get_context("spawn")
    folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
    try:
        for work in (fill, measure):
            if work is not None:
                with context.Pool(1) as pool:
                    found = pool.apply(work[0], (folder, *work[1:]))
        for one in found:
            goal = CROWD_GOALS.get((name, one.what)) if factor >= 1 else None
            yield Bound("crowd", f"{name}: {one.what}", one.unit, one.figure, goal)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


PROGRAMS: Mapping[str, Program] = {
    "snapshots": run_snapshots,
    "maintenance": run_maintenance,
    "encryption": encryption.measure,
    "backups": backups.measure,
    "crowd": run_crowd,
    "scale": scale.run,
}
LONG = frozenset({"scale"})
"""The programs that run only if named."""
