# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m benchmarks [NAME ...]``: measures, prints a table, and exits with 1 if a goal was missed."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from benchmarks.goal_comparison import count_missed, lines_behind_peer
from benchmarks.internals import LONG, PROGRAMS
from benchmarks.report.cells import RATIO_NOTE
from benchmarks.report.page import write
from benchmarks.report.terminal import tables
from benchmarks.results import Results
from benchmarks.runs import plan_runs
from benchmarks.sizes import WorkloadSizes
from benchmarks.sources import Sources
from benchmarks.subjects import RcloneMount, S3fs, installed, subjects
from benchmarks.workloads import WORKLOADS, Work

PRINTED_COLUMNS = 160
QUICK = 0.05
EPILOG = """\
One repetition takes about 15 minutes on 2 cores, and twice as long with S3QL; by default there are three. --quick takes
two minutes and only shows that everything runs. S3QL is measured if its command (mount.s3ql) is on PATH or in --peers
FOLDER; rclone mount and s3fs only with --with: the first stores each file as one object, the second blocks on the S3
server that is used here.

examples:
  ./dev bench small tree --repeat 5     two workloads, medians of five repetitions
  ./dev bench --json FILE               all but scale, and save the figures
  ./dev bench --from FILE FILE          one table from saved figures, without measuring
"""

ON_DEMAND = {"rclone": RcloneMount, "s3fs": S3fs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    names = [workload.name for workload in WORKLOADS] + list(PROGRAMS)
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown workload: {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    results = Results.read(options.from_files) if options.from_files else _measure(parser, options)
    _print(results)
    _save(options, results)
    if options.rst:
        write(options.rst, results)
    if options.plots:
        _draw(parser, options.plots, results)
    return int(bool(count_missed(results) or results.failures))


def _measure(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Results:
    beside = os.path.dirname(sys.executable)  # rclone is there even if the environment is not activated
    os.environ["PATH"] = os.pathsep.join(filter(None, (os.environ.get("PATH"), beside, options.peers)))
    wanted = set(options.names) or {workload.name for workload in WORKLOADS} | PROGRAMS.keys() - LONG
    requested = [ON_DEMAND[name] for name in options.also]
    peers = [peer for peer in installed() if peer not in ON_DEMAND.values() or peer in requested]
    known = subjects(peers)
    if unknown := set(options.subjects or ()) - known.keys():
        parser.error(f"unknown subject: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    chosen = {name: make for name, make in known.items() if not options.subjects or name in options.subjects}
    factor = QUICK if options.quick else options.scale
    settings = {"scale": factor, "repeat": options.repeat, "mount": options.mount, "subjects": list(chosen)}
    results = Results(settings=settings)
    runs = list(plan_runs(chosen, [workload for workload in WORKLOADS if workload.name in wanted]))
    folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
    sources = Sources(folder)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        work = Work(WorkloadSizes().scaled(factor), sources)
        for repetition in range(options.repeat):
            for run in runs:
                with _timed(f"{repetition + 1} of {options.repeat}: {run.title}"):
                    run.run(folder / "subject", options.mount.split(), work, results)
                _save(options, results)
    finally:
        sources.close()
        shutil.rmtree(folder, ignore_errors=True)
    for name, program in PROGRAMS.items():
        if name in wanted:
            with _timed(name):
                results.bounds += program(factor)
            _save(options, results)
    return results


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM clean up as ^C does; a second one is ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _timed(title: str) -> Iterator[None]:
    """Show what is being measured, and then how long it took."""
    console = Console(stderr=True)
    started_s = time.monotonic()
    with console.status(title):
        yield
    console.print(f"{title}: {time.monotonic() - started_s:.0f} s", markup=False, highlight=False)


def _save(options: argparse.Namespace, results: Results) -> None:
    """Save the results so far, so that an interrupted run is not lost."""
    if options.json:
        options.json.write_text(results.as_json() + "\n")


def _print(results: Results) -> None:
    console = Console(width=None if sys.stdout.isatty() else PRINTED_COLUMNS)
    for table in tables(results):
        console.print(table)
        console.print()
    if results.figures:
        console.print(RATIO_NOTE, markup=False)
        behind = lines_behind_peer(results)
        if behind:
            console.print(f"S3QL is ahead in: {'; '.join(behind)}", markup=False)
    for failure in results.failures:
        console.print(f"failed: {failure}", markup=False)


def _draw(parser: argparse.ArgumentParser, folder: Path, results: Results) -> None:
    from benchmarks.report.plots import draw

    try:
        drawn = draw(folder, results)
    except ImportError:
        parser.error("--plots needs matplotlib: pip install 'cas3fs[plots]'")
    for path in drawn:
        print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measure cas3fs, a plain directory, a file system without data, and peers such as S3QL.",
        epilog="\n".join(
            ["workloads:", *(f"  {one.name:12} {one.what}" for one in WORKLOADS), "", *PROGRAM_LINES, "", EPILOG]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads and programs, listed below; all but scale")
    parser.add_argument("--subjects", nargs="+", metavar="SUBJECT", help="only these, such as plain nullfs cas3fs-s3")
    parser.add_argument("--peers", metavar="FOLDER", help="look for the commands of peers there, after PATH")
    parser.add_argument(
        "--with", dest="also", nargs="+", default=[], choices=ON_DEMAND, help="measure these peers, too"
    )
    parser.add_argument(
        "--repeat", type=int, default=3, help="number of repetitions; medians are reported (default: 3)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor for all sizes (default: 1)")
    parser.add_argument("--quick", action="store_true", help=f"the same as --scale {QUICK}")
    parser.add_argument(
        "--mount", default="", metavar="OPTIONS", help='options of cas3fs mount, such as "--frontend llfuse"'
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the results in FILE")
    parser.add_argument("--rst", type=Path, metavar="PAGE", help="replace the tables of PAGE, between its two marks")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw plots of size and latency")
    parser.add_argument(
        "--from", dest="from_files", type=Path, nargs="+", metavar="FILE", help="report saved results; measure nothing"
    )
    return parser


PROGRAM_LINES = (
    "programs:",
    "  snapshots    cost of snapshots with 200,000 and 1,000,000 files",
    "  maintenance  gc's plan, fsck and verification of data, by size",
    "  encryption   what encryption costs, against a plain volume",
    "  backups      a tree into encrypted storage and back, beside S3QL, restic and borg where installed",
    "  crowd        100,000 packs, 10,000 epochs, 60,000 staged files",
    "  scale        1,000,000 files and 1 TiB, from 10,000 files on; takes long, runs only if named",
)


if __name__ == "__main__":
    sys.exit(main())
