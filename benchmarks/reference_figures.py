# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of S3QL 6.3.0, and of ext4 beside it in the same run, as they were measured once.

The machine: 2 cores, Linux 6.18, Python 3.11, 2026-11-22. S3QL with zlib-6 (random bytes: no compression),
unencrypted; its fsync does not reach the disk. Of a range the end that is better for S3QL stands here, and of a fresh
and a remounted volume the better one. Used where S3QL is not installed, and told beside measured figures.
"""

from typing import Final

from benchmarks.goals import Known

KNOWN: Final[dict[tuple[str, str], Known]] = {
    ("small.create", "dir"): Known(36_000, 3_350),
    ("small.stored", "dir"): Known(25_000, 1_160),
    ("small.stored", "s3"): Known(25_000, 924),
    ("small.stored", "far"): Known(25_000, 670),
    ("small.puts", "far"): Known(None, 10_000),
    ("small.stat", "dir"): Known(690_000, 6_200),
    ("small.stat-remount", "dir"): Known(224_000, 109_000),
    ("small.read", "dir"): Known(32_000, 3_320),
    ("small.read-cold", "dir"): Known(36_000, 2_070),
    ("small.read-cold", "s3"): Known(36_000, 540),
    ("small.read-cold", "far"): Known(36_000, 30),
    ("small.rm", "dir"): Known(4_200, 1_130),
    ("stream.fsync", "dir"): Known(1_640, 1_550),
    ("stream.stored", "dir"): Known(1_630, 546),
    ("stream.stored", "s3"): Known(1_630, 157),
    ("stream.read", "dir"): Known(4_600, 1_580),
    ("stream.read-cold", "dir"): Known(4_800, 541),
    ("stream.read-cold", "s3"): Known(4_800, 145),
    ("stream.read-cold", "far"): Known(4_800, 26),
    ("text.stored", "dir"): Known(3_200, 92),
    ("text.ratio", "dir"): Known(None, 2.6),
    ("text.read-cold", "dir"): Known(5_160, 210),
    ("random.read-4k", "dir"): Known(125_000, 26_000),
    ("random.write-4k", "dir"): Known(440_000, 30_000),
    ("random.write-4k-fsync", "dir"): Known(170_000, 18_000),
    ("random.write-4k-stored", "dir"): Known(159_000, 5_300),
    ("tree.copy", "dir"): Known(0.6, 15),
    ("tree.copy-stored", "dir"): Known(0.7, 26),
    ("tree.again", "dir"): Known(0.5, 9.1),
    ("tree.untar", "dir"): Known(0.3, 10.9),
    ("tree.read", "dir"): Known(0.7, 15.6),
    ("tree.read-cold", "dir"): Known(0.7, 16.2),
    ("tree.rm", "dir"): Known(9.2, 10.9),
    ("tree.clone", "dir"): Known(None, 18),
    ("tree-far.puts", "far"): Known(None, 19_458),
    ("shifted.added", "dir"): Known(None, 100),
    ("empty.create", "dir"): Known(143_000, 8_400),
    ("empty.find", "dir"): Known(0.6, 1.4),
    ("empty.fsck", "dir"): Known(None, 1.9),
    ("empty.mount", "dir"): Known(None, 0.47),
    ("memory", "dir"): Known(None, 105),
}
"""By line and place."""
