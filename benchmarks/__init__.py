# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements and the demonstration; no part of the installed package.

A *subject* is something that files can be kept in: cas3fs on a directory, cas3fs on an S3 server, the null file
system, a plain directory. A *workload* is a fixed series of system calls, the same for every subject, and yields one
figure. A *session* brings one subject up, runs the chosen workloads in it, one after the other, and takes it down.
A run repeats the sessions in turn, so that whatever else the machine does hits all subjects alike, and compares
medians. Only ratios within one run mean something: absolute figures differ between machines, and from hour to hour.

cas3fs is used through its command line alone.
"""
