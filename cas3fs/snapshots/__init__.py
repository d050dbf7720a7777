# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots: a file of bytes (the index), kept in the object store as of certain moments.

- *segment*: 16 KiB of the file, compressed and hashed by itself.
- *reference*: where a segment lies and what it hashes to. A *list* holds 256 references (`tree`).
- *manifest*: the snapshot's own entry: a node whose parts are the lists. With it a snapshot exists.
- *pages entry*: an object with segments and lists that were new in one snapshot; later ones refer to it (`parts`).
- *archive*: creates, lists, restores and deletes snapshots (`archive`).
- *line*: the succession of writers; a snapshot may be off it (`lines`).
- *policy*: rules that say which snapshots are kept (`retention`); *removal*: the plan to delete some (`removal`).

Manifest, lists and segments are a tree of hashes: a snapshot stores only the segments and lists that its parent
lacks, and every byte of a restored file was verified.

Order of writes: the pages entries, then the manifest. A snapshot that broke off in between is not there. Order of
deletes: manifests, then the pages entries that no other one refers to.

This room does not know what is in the file; not SQL, epochs, mounts, or who calls it when. Its numbers come from the
caller.
"""
