# SPDX-License-Identifier: GPL-3.0-or-later
"""The workloads: what is done with a subject, and the figures that result."""

from benchmarks.workloads.copying import COPYING
from benchmarks.workloads.empty import EMPTY
from benchmarks.workloads.random_io import RANDOM
from benchmarks.workloads.reading import READING
from benchmarks.workloads.small import SMALL
from benchmarks.workloads.streams import SHIFTED, STREAM, TEXT
from benchmarks.workloads.tree import TREE, TREE_FAR
from benchmarks.workloads.workload import Figures, Work, Workload

WORKLOADS = (SMALL, STREAM, TEXT, RANDOM, TREE, TREE_FAR, SHIFTED, COPYING, EMPTY, READING)

__all__ = ["WORKLOADS", "Figures", "Work", "Workload"]
