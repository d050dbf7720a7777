# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of S3QL 6.3.0, and of ext4 beside it in the same session, measured once.

The machine: 2 cores, Linux 6.18, Python 3.11, 2026-11-22. S3QL with zlib-6 (random bytes: no compression), unencrypted;
its fsync does not reach the disk. Of a range, the end that is better for S3QL is used, and of a fresh and a remounted
volume the better figure. They are used if S3QL is not installed, and shown beside measured figures.
"""

from typing import Final

from benchmarks.goals import ReferenceFigures

REFERENCE_FIGURES: Final[dict[tuple[str, str], ReferenceFigures]] = {
    ("small.create", "dir"): ReferenceFigures(36_000, 3_350),
    ("small.stored", "dir"): ReferenceFigures(25_000, 1_160),
    ("small.stored", "s3"): ReferenceFigures(25_000, 924),
    ("small.stored", "far"): ReferenceFigures(25_000, 670),
    ("small.puts", "far"): ReferenceFigures(None, 10_000),
    ("small.stat", "dir"): ReferenceFigures(690_000, 6_200),
    ("small.stat-remount", "dir"): ReferenceFigures(224_000, 109_000),
    ("small.read", "dir"): ReferenceFigures(32_000, 3_320),
    ("small.read-cold", "dir"): ReferenceFigures(36_000, 2_070),
    ("small.read-cold", "s3"): ReferenceFigures(36_000, 540),
    ("small.read-cold", "far"): ReferenceFigures(36_000, 30),
    ("small.rm", "dir"): ReferenceFigures(4_200, 1_130),
    ("stream.fsync", "dir"): ReferenceFigures(1_640, 1_550),
    ("stream.stored", "dir"): ReferenceFigures(1_630, 546),
    ("stream.stored", "s3"): ReferenceFigures(1_630, 157),
    ("stream.read", "dir"): ReferenceFigures(4_600, 1_580),
    ("stream.read-cold", "dir"): ReferenceFigures(4_800, 541),
    ("stream.read-cold", "s3"): ReferenceFigures(4_800, 145),
    ("stream.read-cold", "far"): ReferenceFigures(4_800, 26),
    ("text.stored", "dir"): ReferenceFigures(3_200, 92),
    ("text.ratio", "dir"): ReferenceFigures(None, 2.6),
    ("text.read-cold", "dir"): ReferenceFigures(5_160, 210),
    ("random.read-4k", "dir"): ReferenceFigures(125_000, 26_000),
    ("random.write-4k", "dir"): ReferenceFigures(440_000, 30_000),
    ("random.write-4k-fsync", "dir"): ReferenceFigures(170_000, 18_000),
    ("random.write-4k-stored", "dir"): ReferenceFigures(159_000, 5_300),
    ("tree.copy", "dir"): ReferenceFigures(0.6, 15),
    ("tree.copy-stored", "dir"): ReferenceFigures(0.7, 26),
    ("tree.again", "dir"): ReferenceFigures(0.5, 9.1),
    ("tree.untar", "dir"): ReferenceFigures(0.3, 10.9),
    ("tree.read", "dir"): ReferenceFigures(0.7, 15.6),
    ("tree.read-cold", "dir"): ReferenceFigures(0.7, 16.2),
    ("tree.rm", "dir"): ReferenceFigures(9.2, 10.9),
    ("tree.clone", "dir"): ReferenceFigures(None, 18),
    ("tree-far.puts", "far"): ReferenceFigures(None, 19_458),
    ("shifted.added", "dir"): ReferenceFigures(None, 100),
    ("empty.create", "dir"): ReferenceFigures(143_000, 8_400),
    ("empty.find", "dir"): ReferenceFigures(0.6, 1.4),
    ("empty.fsck", "dir"): ReferenceFigures(None, 1.9),
    ("empty.mount", "dir"): ReferenceFigures(None, 0.47),
    ("memory", "dir"): ReferenceFigures(None, 105),
}
"""By line and place."""
