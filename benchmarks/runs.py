# SPDX-License-Identifier: GPL-3.0-or-later
"""Which workloads run in which subjects, in which order, and how failures are handled."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Results, run_title
from benchmarks.subjects import Make
from benchmarks.workloads import Work, Workload


@dataclass(frozen=True)
class WorkloadRun:
    """One run of a workload in an empty subject."""

    subject: str
    make: Make
    workload: Workload

    @property
    def title(self) -> str:
        """The title for progress and failures."""
        return run_title(self.workload.name, self.subject)

    def run(self, folder: Path, options: Sequence[str], work: Work, results: Results) -> None:
        """Start the subject, run the workload, and stop the subject.

        A failure of a peer is recorded, and its figures so far are kept; a failure of cas3fs is raised.
        """
        subject = self.make(folder, options)
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


def plan_runs(subjects: Mapping[str, Make], workloads: Sequence[Workload]) -> Iterator[WorkloadRun]:
    """The runs of one repetition: workload by workload, so that compared figures are measured close together."""
    for workload in workloads:
        for name, make in subjects.items():
            if workload.wants(name):
                yield WorkloadRun(name, make, workload)
