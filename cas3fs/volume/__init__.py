# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens, publishes and closes a volume.

Vocabulary: a volume is *open* when a state folder is locked, an epoch claimed and a file system wired to index,
staging and store; it is a *view* when it is open for reading only, from the newest snapshot, without a claim; the
*line* of a volume is the succession of its writers: the local index *continues the line* when nobody else has written
since it was written; *to publish* is to store everything and put a snapshot of the index in the store; *to finish* is
to publish and release the epoch.

Modules: `loading` (the store of a volume, and its entry), `state_folder`, `lineage` (which index to go on with),
`wiring`, `publisher`, `pruner`, `opening` (all of it together, and its end), `offline_writer` (a claim without a file
system), `gc_scheduler`, `memory_tuning`.
"""
