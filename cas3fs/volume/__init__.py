# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens, publishes and closes a volume: settings become connected objects.

Words
    open       lock the state directory, claim an epoch, and connect a file system to index, staging and store
    view       a volume that is open for reading only, from a snapshot, without a claim
    lineage    the succession of writers: the local index continues it if nobody else has written since it was written
    diverged   of a snapshot: published by a writer after another had taken over, so not part of the lineage
    publish    store everything, and put a snapshot of the index in the store
    finish     publish, and release the epoch
    clean      of the local index: it holds what a snapshot holds, and no more

Modules
    loading         the store of a volume, and the entry that records how it was made
    seen            what this machine has seen of an encrypted volume, and whether the store still has it
    location        which state directory belongs to a volume; two copies of a bucket have two
    state_directory the files of the state directory, and its lock
    lineage         which index a writer begins with: the local one, the newest snapshot, or an empty one
    comparison      the local index compared with the store: current, superseded, an old copy, another store
    newest_index    the newest index of a volume that is not open, for commands that only read it
    handover        what a claim knows of the snapshots before it lists them, and leaves to the next
    wiring          builds a file system from its parts
    opening         all of it together: `open_writer`, `open_view`, and closing
    offline_writer  a claim without a file system, for commands that only change snapshots
    publisher       snapshots on demand and at intervals; `pruner` deletes those that the policy does not keep
    sampler         part of the index is checked with each snapshot
    gc_scheduler    gc on demand and at intervals
    memory_tuning   limits of the process of a mount

The default retention policy is in `cas3fs.snapshots.policy`. The subpackage does not know of FUSE, verbs or messages.
"""
