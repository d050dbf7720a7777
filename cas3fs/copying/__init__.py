# SPDX-License-Identifier: GPL-3.0-or-later
"""Copying a volume into another one, which may be encrypted, cut, or compressed in another way.

Vocabulary:

- *source*: the volume that is copied; it is only read. *destination*: the volume that becomes the copy.
- *copy*: the index of the destination while it is made, in the state directory, in a folder of its own.
- *ledger*: facts about content that the copy relies on: which hash a block of the source has in the destination, and
  how a part of a file is cut there (`cas3fs.index.ledger`).
- *alike*: two volumes with the same chunker and block size. Then each block of the source becomes one block, with
  another hash if either is encrypted. Otherwise files are *cut anew*, in *parts* of at most 1 GiB: a part ends there
  whatever the content is, so that memory is bounded and a change in a large file cuts one part again.
- *lost*: a block that the source does not have any more. Reading it fails in the source, and so it does in the
  destination: its chunks name a block in the lost pack there. It is looked for again for each snapshot.

`cas3fs.commands.copy` opens both volumes, claims the destination, and calls `snapshots.SnapshotCopier` for one snapshot
after the other, oldest first. For each:

1. the index of the snapshot is restored from the source, and checked: one that has lost chunks is not copied, as zeros
   would stand in their place;
2. what the destination lacks of its blocks is read, hashed, and stored in packs (`blocks`, `recut`);
3. inodes, names, attributes, and then chunks in the copy become those of the snapshot (`cas3fs.index.copying`): only
   what differs from the snapshot before is changed, so that both share their pages;
4. the copy is published with name and time of the snapshot; the manifest names the snapshot that it is a copy of.

All snapshots of a run have one claimed epoch. Numbers of inodes are kept. Numbers of blocks and packs are the
destination's own, and so are ``born`` and ``died`` of packs. Of the texts of the index (``volume_state``) only those
about files are copied: what a writer notes of its lineage begins anew at the first mount.

Invariants:

1. Nothing is written in the source, not even a claim.
2. A block enters the copy when its pack was stored; a chunk, when its block is in the copy; a snapshot is published
   when all its chunks are.
3. A step depends on nothing that an earlier process may have left half done: it compares what is there with what has to
   be there. So a copy is continued by beginning again.

Where the process may die, and what the next run finds:

- after ``copies/00000001``, before the first snapshot: a destination that is known to be of this source;
- after a pack was stored, before it was entered: a pack that the copy does not know. Its table of contents is read, and
  its blocks are entered;
- the same, and a gc of the destination in between has deleted that pack, as no snapshot needed it: the pack is found
  missing, and its blocks are stored again;
- between any two transactions of steps 2 and 3: a copy that is no consistent file system and was not published; both
  steps run again, and find what they did;
- after the manifest was put, before the ledger says so, or if the state directory is lost: the copy is restored from
  the newest snapshot of the destination. Without the ledger, blocks are read again unless both volumes are unencrypted
  and alike; none is stored again.

If the source is in use: its writer may delete a snapshot meanwhile, and gc the blocks that only this one had. So when a
block is missing, and before a snapshot with lost blocks is published, the source is asked for the snapshot's manifest.
A snapshot that is gone is skipped: what its writer deleted is not missed by anyone. But one that the user asked for by
its id is an error.

Memory: what is read ahead and what is being stored, some pages of rows, the chunks of one part.

This subpackage knows nothing of secrets, claims and state directories.
"""
