# SPDX-License-Identifier: GPL-3.0-or-later
"""The sizes of a run, and constants that workloads share."""

from dataclasses import asdict, dataclass

FOLDERS = 100
SMALL_BYTES = 4096
PIECE_BYTES = 1 << 20
MIB = 1 << 20


@dataclass(frozen=True)
class WorkloadSizes:
    """The sizes for which the goals hold, or a fraction of them for trials."""

    files: int = 10_000
    stream_mib: int = 1024
    shifted_mib: int = 512
    tree_files: int = 22_000
    empty_files: int = 200_000
    random_operations: int = 40_000
    random_s: float = 8.0

    def scaled(self, factor: float) -> "WorkloadSizes":
        """All sizes multiplied by `factor`."""
        return WorkloadSizes(
            files=max(FOLDERS, round(self.files * factor)),
            stream_mib=max(1, round(self.stream_mib * factor)),
            shifted_mib=max(4, round(self.shifted_mib * factor)),
            tree_files=max(FOLDERS, round(self.tree_files * factor)),
            empty_files=max(FOLDERS, round(self.empty_files * factor)),
            random_operations=max(100, round(self.random_operations * factor)),
            random_s=max(0.5, self.random_s * min(1.0, factor)),
        )

    def as_json(self) -> dict[str, float]:
        """The sizes by name."""
        return asdict(self)
