# SPDX-License-Identifier: GPL-3.0-or-later
"""A run: which workload in which subject, in which order, and what becomes of a failure."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Results, session_title
from benchmarks.subjects import Make
from benchmarks.workloads import Work, Workload


@dataclass(frozen=True)
class Session:
    """A subject, empty, and the workload to run in it."""

    subject: str
    make: Make
    workload: Workload

    @property
    def title(self) -> str:
        """For people who wait."""
        return session_title(self.workload.name, self.subject)

    def run(self, folder: Path, workers: int, work: Work, results: Results) -> None:
        """Brings the subject up, measures, and takes it down.

        What fails in a peer is noted, and what it yielded before is kept; what fails in cas3fs is raised.
        """
        subject = self.make(folder, workers)
        subject.compress = self.workload.compress
        try:
            subject.start()
            for line, figure in self.workload.run(subject, work):
                results.add(line, self.subject, figure)
            memory_kib = subject.memory_kib()
            if memory_kib is not None:
                results.add("memory", self.subject, memory_kib / 1024)
        except Exception as error:
            if self.subject.startswith("cas3fs"):
                raise
            results.failures.append(f"{self.title}: {error}")
        finally:
            subject.stop()
            shutil.rmtree(folder, ignore_errors=True)


def plan(subjects: Mapping[str, Make], workloads: Sequence[Workload]) -> Iterator[Session]:
    """The sessions of one repetition: workload by workload, so that what is compared is measured together."""
    for workload in workloads:
        for name, make in subjects.items():
            if workload.wants(name):
                yield Session(name, make, workload)
