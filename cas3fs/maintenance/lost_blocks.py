# SPDX-License-Identifier: GPL-3.0-or-later
"""Noting: what a check has found lost is made known to the index, so that nothing is deduplicated onto it.

A check of a mounted volume tells its file system at once. One of a volume that nobody has open changes nothing; it
leaves a note in the state folder, which the next writer takes up. It is a JSON file, replaced as a whole::

    {"packs": [name, ...], "blocks": [[hash in hex, name of the pack or an empty text], ...]}

Nothing depends on it: what it tells is found again by the next check, or by who reads the block.

An index that goes on after a crash may name packs that no snapshot in the store vouches for; `record_missing_packs`
asks the store for them, as it may have been put back to its state before they came.
"""

import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs

from cas3fs.blockstore.pack_store import PackStore
from cas3fs.durable import replace_file
from cas3fs.filesystem import FileSystem
from cas3fs.index import Index, ordinal_of
from cas3fs.objectstores import ObjectStore
from cas3fs.values import BlockHash, SnapshotNumber

LOST: Final = "lost_packs"
DAMAGED: Final = "damaged_packs"
NOTE_NAME: Final = "lost.json"
_WORKERS: Final = 8

_log = logging.getLogger(__name__)


def lost_packs(index: Index, which: str = LOST) -> frozenset[str]:
    """The names of packs that are known to be lost, or `DAMAGED`; needs the index's lock."""
    return frozenset((index.state.get(which) or "").split())


def set_lost_packs(index: Index, packs: Iterable[str], which: str = LOST) -> None:
    """Writes down which packs are lost, or `DAMAGED`, in place of what was there; within an operation."""
    text = "\n".join(sorted(set(packs)))
    if text:
        index.state.set(which, text)
    else:
        index.state.remove(which)


@attrs.frozen
class LostBlocks:
    """Packs that are gone or not to be relied on, and blocks, each with the pack that it should lie in."""

    packs: frozenset[str]
    blocks: frozenset[tuple[BlockHash, str]]


def record_lost_blocks(filesystem: FileSystem, losses: LostBlocks) -> None:
    """Makes losses known to an open volume.

    Raises:
        IndexDatabaseError: the index could not be written.
    """
    for pack in sorted(losses.packs):
        filesystem.packs.mark_pack_lost(pack)
    with filesystem.index_transaction() as index:
        for block, pack in sorted(losses.blocks):
            index.blocks.mark_lost(block, pack)


def save_lost_block_note(folder: Path, losses: LostBlocks) -> None:
    """Leaves a note for the next writer, in place of an earlier one; nothing is left where there is nothing to tell.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / NOTE_NAME
    if not losses.packs and not losses.blocks:
        path.unlink(missing_ok=True)
        return
    told = {"packs": sorted(losses.packs), "blocks": sorted([block.hex(), pack] for block, pack in losses.blocks)}
    replace_file(path, json.dumps(told), sync=False)


def apply_lost_block_note(folder: Path, filesystem: FileSystem) -> None:
    """Makes what a note tells known to an open volume, and removes the note when that is on the disk.

    Raises:
        IndexDatabaseError, OSError: the local disk failed.
    """
    path = folder / NOTE_NAME
    try:
        told = json.loads(path.read_text())
        losses = LostBlocks(
            frozenset(str(pack) for pack in told["packs"]),
            frozenset((BlockHash(bytes.fromhex(block)), str(pack)) for block, pack in told["blocks"]),
        )
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be read and is removed; cas3fs fsck writes it again: %s", path, error)
    else:
        record_lost_blocks(filesystem, losses)
        filesystem.commit()
    path.unlink()


def record_missing_packs(index: Index, store: ObjectStore, snapshot: str | None) -> None:
    """Notes as lost the packs that were stored after that snapshot (None: all) and are not in the store; one HEAD for
    each. Before a file system is at work on the index.

    Raises:
        StoreError: the store failed.
        IndexDatabaseError: the index cannot be read or written.
    """
    packs = index.blocks.packs_after(-1 if snapshot is None else ordinal_of(SnapshotNumber.parse(snapshot)))
    if not packs:
        return
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="packs") as pool:
        there = pool.map(lambda pack: _is_there(store, pack), packs)
        missing = [pack for pack, is_there in zip(packs, there, strict=True) if not is_there]
    if not missing:
        return
    with index.operation():
        for pack in missing:
            index.blocks.mark_pack_lost(pack)
    index.commit()
    _log.error(
        "%s lacks %d packs that were stored after its newest snapshot (was it put back from a backup?): their data "
        "gives I/O errors until it is written again, and `cas3fs fsck` tells of which files",
        store.url,
        len(missing),
    )


def _is_there(store: ObjectStore, pack: str) -> bool:
    return PackStore(store).exists(pack)
