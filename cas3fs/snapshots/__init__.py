# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots: images of a file (the index) at certain moments, kept in the object store.

Vocabulary:

- *segment*: 16 KiB of the file, compressed and hashed by itself.
- *reference*: where a segment is stored, and its hash. A *list* holds 256 references (`tree`).
- *manifest*: the snapshot's own entry; its parts are the lists (`manifests`). The snapshot exists once it is stored.
- *pages entry*: an object with segments and lists that were new in one snapshot; later snapshots refer to it (`pages`).
- *head*: the newest snapshot; the next writer continues from it.
- *diverged*: published by a writer that had been taken over; such a snapshot is never the head (`divergence`).
- *bypassed*: a damaged snapshot that the volume did not continue from although it was the newest.
- *policy*: the rules that decide which snapshots are kept (`policy`, `retention`).
- *removal*: deleting snapshots, and the pages entries that only they need (`removal`).

Invariants:

1. Manifest, lists and segments are a tree of hashes. A snapshot stores only the segments and lists that its parent
   lacks, and every byte of a restored file was verified.
2. A manifest is stored only while the store has all pages entries that it refers to.
3. A snapshot's number (epoch, sequence) is used once; the greatest is the newest. An attempt that fails uses up its
   number, so an attempt never meets what an earlier one left behind.
4. That a listing lacks a snapshot proves nothing: what is known to exist is looked up by name (`tracker`).

Order of writes: the pages entries, then the manifest. A snapshot that was interrupted in between does not exist.
Order of deletes: the manifests, then the pages entries that no other manifest refers to.

`archive.SnapshotArchive` is the way in; `snapshot_writer` and `snapshot_reader` do its work. Numbers and epochs come
from the caller. This subpackage knows nothing of the content of the file, SQL, mounts, or of when its callers publish.
"""
