# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of cas3fs, and of programs that use it, need: real servers to talk to, started and stopped here.

Vocabulary: a *server* is a process or thread of this machine, on a port of its own, that lives as long as a ``with``.
The room stands on top of the others: nothing imports it but tests, and it needs the packages of the ``dev`` extra.
"""
