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

from benchmarks.bounds import LONG, PROGRAMS
from benchmarks.comparing import behind_the_peer, missed
from benchmarks.report.cells import WHAT_RATIO
from benchmarks.report.page import write
from benchmarks.report.terminal import tables
from benchmarks.results import Results
from benchmarks.sessions import plan
from benchmarks.sizes import Size
from benchmarks.sources import Sources
from benchmarks.subjects import RcloneMount, S3fs, installed, subjects
from benchmarks.workloads import WORKLOADS, Work
from cas3fs.cli.mount import DEFAULT_WORKERS

PRINTED_COLUMNS = 160
QUICK = 0.05
EPILOG = """\
Once through takes about 15 minutes on 2 cores, and as long again where S3QL is installed; by default all is done three
times. --quick takes two minutes and proves that everything runs, and nothing else. Peers are measured where their
command (mount.s3ql) is found on PATH or in --peers FOLDER; rclone mount and s3fs when --with names them: the one stores
files one by one, the other hangs on the S3 server that is used here.
"""

ON_DEMAND = {"rclone": RcloneMount, "s3fs": S3fs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    names = [workload.name for workload in WORKLOADS] + list(PROGRAMS)
    if unknown := set(options.names) - set(names):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    results = Results.read(options.from_files) if options.from_files else _measure(parser, options)
    _tell(results)
    _keep(options, results)
    if options.rst:
        write(options.rst, results)
    if options.plots:
        _draw(parser, options.plots, results)
    return int(bool(missed(results) or results.failures))


def _measure(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Results:
    beside = os.path.dirname(sys.executable)  # rclone is there, even if the environment is not activated
    os.environ["PATH"] = os.pathsep.join(filter(None, (os.environ.get("PATH"), beside, options.peers)))
    wanted = set(options.names) or {workload.name for workload in WORKLOADS} | PROGRAMS.keys() - LONG
    asked = [ON_DEMAND[name] for name in options.also]
    peers = [peer for peer in installed() if peer not in ON_DEMAND.values() or peer in asked]
    known = subjects(peers)
    if unknown := set(options.subjects or ()) - known.keys():
        parser.error(f"no such subject here: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = {name: make for name, make in known.items() if not options.subjects or name in options.subjects}
    factor = QUICK if options.quick else options.scale
    settings = {"scale": factor, "repeat": options.repeat, "workers": options.workers, "subjects": list(chosen)}
    results = Results(settings=settings)
    sessions = list(plan(chosen, [workload for workload in WORKLOADS if workload.name in wanted]))
    folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
    sources = Sources(folder)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        work = Work(Size().scaled(factor), sources)
        for repetition in range(options.repeat):
            for session in sessions:
                with _shown(f"{repetition + 1} of {options.repeat}: {session.title}"):
                    session.run(folder / "subject", options.workers, work, results)
                _keep(options, results)
    finally:
        sources.close()
        shutil.rmtree(folder, ignore_errors=True)
    for name, program in PROGRAMS.items():
        if name in wanted:
            with _shown(name):
                results.bounds += program(factor)
            _keep(options, results)
    return results


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Makes a run that is told to end clean up, as with ^C, even if it is told twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _shown(title: str) -> Iterator[None]:
    """Says what is under way, and then how long it took."""
    console = Console(stderr=True)
    begun_s = time.monotonic()
    with console.status(title):
        yield
    console.print(f"{title}: {time.monotonic() - begun_s:.0f} s", markup=False, highlight=False)


def _keep(options: argparse.Namespace, results: Results) -> None:
    """Writes what there is so far: a run that is ended early is not lost."""
    if options.json:
        options.json.write_text(results.as_json() + "\n")


def _tell(results: Results) -> None:
    console = Console(width=None if sys.stdout.isatty() else PRINTED_COLUMNS)
    for table in tables(results):
        console.print(table)
        console.print()
    if results.figures:
        console.print(WHAT_RATIO, markup=False)
        behind = behind_the_peer(results)
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
        description="Measure cas3fs beside a plain directory, a file system that does nothing, and its peers.",
        epilog="\n".join([*(f"{w.name:12} {w.what}" for w in WORKLOADS), *PROGRAM_LINES, "", EPILOG]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads and programs, as below; all but scale")
    parser.add_argument("--subjects", nargs="+", metavar="SUBJECT", help="where, such as plain nullfs cas3fs-s3")
    parser.add_argument("--peers", metavar="FOLDER", help="where commands of peers are, beside PATH")
    parser.add_argument("--with", dest="also", nargs="+", default=[], choices=ON_DEMAND, help="measure that, too")
    parser.add_argument("--repeat", type=int, default=3, help="how often; medians are told")
    parser.add_argument("--scale", type=float, default=1.0, help="do this part of the full size")
    parser.add_argument("--quick", action="store_true", help=f"the same as --scale {QUICK}")
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="of cas3fs and of the null file system")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--rst", type=Path, metavar="PAGE", help="put the table between the marks of that page, too")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw what scales")
    parser.add_argument(
        "--from", dest="from_files", type=Path, nargs="+", metavar="FILE", help="measure nothing: tell these results"
    )
    return parser


PROGRAM_LINES = (
    "snapshots    what snapshots of 200,000 and 1,000,000 files cost",
    "maintenance  gc's plan, fsck and reading back, by size",
    "crowd        100,000 packs, 10,000 epochs, 60,000 files that wait for the store",
    "scale        1,000,000 files and 1 TiB, from 10,000 on: long, and only when it is named",
)


if __name__ == "__main__":
    sys.exit(main())
