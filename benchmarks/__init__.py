# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements and the demonstration; no part of the installed package.

A *subject* is a place where files are kept: cas3fs, the null file system, a plain directory, or a peer that is
installed. Its store is in one of three *places*: a directory, an S3 server on this machine, or the same server *far*
away, behind a proxy that delays each request. A *workload* is a fixed series of system calls, the same for every
subject. It yields figures, each of a *line* (`lines.py`), which has a unit and goals. A run of a workload starts a
subject, empty, runs the workload in it, and stops it. All runs are repeated in turn, so that other load on the machine
affects all subjects alike, and medians are compared. Only ratios within one session of measurements are meaningful:
absolute figures differ between machines, and from hour to hour.

The nearest peer is S3QL. Where it is not installed, its ratio to a plain directory, measured once
(`reference_figures.py`), is used instead.

Programs (`internals.py`) measure the internals of cas3fs by size, without subjects; the workloads use only its command
line.
"""
