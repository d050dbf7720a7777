# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements and the demonstration; no part of the installed package.

A *subject* is something that files can be kept in: cas3fs, the null file system, a plain directory, a peer that is
installed; in one of three *places*: a directory, an S3 server on this machine, and that server *far* away, behind a
proxy that delays each request. A *workload* is a fixed series of system calls, the same for every subject; on the way
it yields figures, each of a *line* (`lines.py`), which has a unit and goals. A *session* brings a subject up, empty,
runs one workload in it, and takes it down. A run repeats the sessions in turn, so that whatever else the machine does
hits all subjects alike, and compares medians. Only ratios within one run mean something: absolute figures differ
between machines, and from hour to hour.

The nearest peer is S3QL. Where it is not installed, its ratio to a plain directory as it was measured once
(`known.py`) stands in for it.

cas3fs is used through its command line alone.
"""
