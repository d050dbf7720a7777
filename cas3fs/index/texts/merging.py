# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.merging`."""

from cas3fs.index.prepared import Prepared

SEQUENCES = Prepared("SELECT sqlite_sequence.name, sqlite_sequence.seq FROM sqlite_sequence")
SET_SEQUENCE = Prepared("UPDATE sqlite_sequence SET seq=? WHERE sqlite_sequence.name = ?", (1, 0))
ADD_SEQUENCE = Prepared("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)")
KNOWN = Prepared("SELECT packs.name FROM packs")
