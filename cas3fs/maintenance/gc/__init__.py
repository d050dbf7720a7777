# SPDX-License-Identifier: GPL-3.0-or-later
"""gc: deletes unreferenced blocks and packs, and leftovers of failed uploads.

Modules
    request              the settings of a gc, and its result
    plan                 what a gc would do, what that frees and costs: a value that `--dry-run` prints
    planner              reads what the plan and each step of the execution are decided by
    collector            the execution: its steps, and what a crash after each of them leaves
    pack_selection       which sparsely used packs are rewritten, as that pays
    compaction           rewriting them: their live blocks move to new packs
    reencryption         dropping older generations of the keys, once nothing is sealed with them
    orphans              objects that neither the index nor a snapshot references: which may be deleted, and why not
    unreferenced_blocks  dropping blocks from the index that no chunk references
    deletion             deleting objects, past those that the store refuses to delete

It does not import `cas3fs.maintenance.fsck`.
"""
