# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m benchmarks [WORKLOAD ...]``: measures, prints a table, and exits with 1 if a goal was missed."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import snapshots
from benchmarks.reading import READING
from benchmarks.report import Results, as_json, lines, table
from benchmarks.subjects import Cas3fs, Cas3fsFar, Cas3fsOnS3, NullFileSystem, PlainDirectory, Subject
from benchmarks.workloads import WORKLOADS as WRITING
from benchmarks.workloads import Size, Workload
from cas3fs.cli.mount import DEFAULT_WORKERS

PRINTED_COLUMNS = 120
WORKLOADS = (*WRITING, *READING)
SUBJECTS: Mapping[str, Callable[[Path, int], Subject]] = {
    PlainDirectory.name: lambda folder, workers: PlainDirectory(folder),
    NullFileSystem.name: NullFileSystem,
    Cas3fs.name: Cas3fs,
    Cas3fsOnS3.name: Cas3fsOnS3,
    Cas3fsFar.name: Cas3fsFar,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["snapshots"]:
        return snapshots.main(given[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := set(options.workloads) - {workload.name for workload in WORKLOADS}:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    workloads = [workload for workload in WORKLOADS if not options.workloads or workload.name in options.workloads]
    console = Console(stderr=True)
    size = Size().scaled(options.scale)
    results = Results()
    folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
    try:
        for repetition in range(options.repeat):
            for session in plan(options.subjects, workloads):
                with console.status(f"{repetition + 1} of {options.repeat}: {session.title}"):
                    session.run(folder / "subject", options.workers, size, results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = lines(results, workloads)
    Console(width=None if sys.stdout.isatty() else PRINTED_COLUMNS).print(table(found))
    if options.json:
        options.json.write_text(as_json(found, {"scale": options.scale, "workers": options.workers}) + "\n")
    return int(any(line.met is False for line in found))


class Session:
    """A subject and the workloads to run in it."""

    def __init__(self, make: Callable[[Path, int], Subject], name: str, workloads: Sequence[Workload]) -> None:
        self._make = make
        self._name = name
        self._workloads = workloads

    @property
    def title(self) -> str:
        return f"{self._name}: {', '.join(workload.name for workload in self._workloads)}"

    def run(self, folder: Path, workers: int, size: Size, results: Results) -> None:
        """Brings the subject up, measures, and takes it down."""
        subject = self._make(folder, workers)
        try:
            subject.start()
            for workload in self._workloads:
                figure = workload.measure(subject, size)
                if figure is not None:
                    results.add(workload.name, self._name, figure)
                subject.settle()
        finally:
            subject.stop()


def plan(subjects: Sequence[str], workloads: Sequence[Workload]) -> list[Session]:
    """The sessions of one repetition; counting requests, and reading from afar, have their own, on S3."""
    timed = [workload for workload in workloads if not (workload.counted or workload.far)]
    counted = [workload for workload in workloads if workload.counted]
    sessions = [Session(SUBJECTS[name], name, timed) for name in subjects if timed and name != Cas3fsFar.name]
    if counted and Cas3fsOnS3.name in subjects:
        make = lambda folder, workers: Cas3fsOnS3(folder, workers, counted=True)  # noqa: E731
        sessions.append(Session(make, Cas3fsOnS3.name, counted))
    far = [workload for workload in workloads if workload.far]
    if far and Cas3fsFar.name in subjects:
        sessions.append(Session(Cas3fsFar, Cas3fsFar.name, far))
    return sessions


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure cas3fs beside what could be had at best.")
    known = " ".join(workload.name for workload in WORKLOADS)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"all, or some of: {known}; or snapshots")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="where to run them")
    parser.add_argument("--repeat", type=int, default=3, help="how often; medians are told")
    parser.add_argument("--scale", type=float, default=1.0, help="do this part of the full size")
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help="of cas3fs and of the null file system")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
