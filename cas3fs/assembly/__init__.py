# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings become wired objects: the one room that knows all others, and in which nothing is decided that they could.

Vocabulary: a volume is *open* when a state folder is locked, an epoch claimed and a file system wired to index,
staging and store; it is a *view* when it is open for reading only, from the newest snapshot, without a claim; the
*line* of a volume is the succession of its writers: the local index *continues the line* when nobody else has written
since it was written; *to publish* is to store everything and put a snapshot of the index in the store; *to finish* is
to publish and release the epoch.

Modules: `volumes` (mkfs, and finding a volume), `statefolder`, `line` (which index to go on with), `wiring`,
`publishing`, `opening` (all of it together, and its end), `mounting` (with the kernel and the control socket),
`reports` (stats).
"""
