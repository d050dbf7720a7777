# SPDX-License-Identifier: GPL-3.0-or-later
"""fsck: checks a volume, and repairs it when asked to. Nothing is deleted.

Modules
    findings           what can be wrong, by code, and what a repair does about it
    checker            the index against itself and the store's listing; snapshots; staging
    verify             reading blocks and snapshots back, and comparing them with their hashes
    verify_checkpoint  how far that has come, in a file
    target             what a check reads: an index, the store, and staging
    volume_check       a whole check: its settings and its result
    volume_repair      a whole repair: its steps, in order
    index_repair       a repair for each kind of defect within the index
    file_rollback      files of which the index has lost chunks, taken from a snapshot
    block_recovery     blocks that are not where the index has them, found elsewhere or recorded as lost
    key_check          key entries and keyrings that cannot be used
    epoch_repair       entries of epochs that cannot be read

It does not import `cas3fs.maintenance.gc`.
"""
