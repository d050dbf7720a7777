# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs and blocks that are known to be lost: nothing is deduplicated onto them, and they are reported once.

The index holds two lists of packs, as texts of one name a line:

- *lost*: the object is missing. The chunks of its blocks stay, so that reading them gives an I/O error and never zeros.
  A gc does not conclude from such a pack that a listing is incomplete.
- *damaged*: the object exists, with wrong bytes in blocks that only snapshots need. A damaged block that the volume
  itself needs is known by itself: it is in the lost pack (`cas3fs.index.repairs`).

A check of a mounted volume records what it finds lost at once. A check of a volume that nobody has open changes
nothing; it saves a note in the state directory, which the next writer applies. It is a JSON file, replaced as a whole::

    {"packs": [name, ...], "blocks": [[hash in hex, name of the pack or an empty text], ...]}

Nothing depends on the note: what it says is found again by the next check, or when the block is read.

An index that is used on after a crash may have packs that no snapshot in the store confirms, and the store may have
been set back to a state before they were stored. `record_missing_packs` asks the store for each of them.
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

NOTE_NAME: Final = "lost.json"
_LOST: Final = "lost_packs"
_DAMAGED: Final = "damaged_packs"
_WORKERS: Final = 8

_log = logging.getLogger(__name__)


def lost_packs(index: Index) -> frozenset[str]:
    """The names of the packs that are known to be lost; needs the index's lock."""
    return _names(index, _LOST)


def set_lost_packs(index: Index, packs: Iterable[str]) -> None:
    """Replaces the list of lost packs; within an operation."""
    _set_names(index, _LOST, packs)


def damaged_packs(index: Index) -> frozenset[str]:
    """The names of the packs with damaged blocks that only snapshots need; needs the index's lock."""
    return _names(index, _DAMAGED)


def set_damaged_packs(index: Index, packs: Iterable[str]) -> None:
    """Replaces the list of damaged packs; within an operation."""
    _set_names(index, _DAMAGED, packs)


def _names(index: Index, key: str) -> frozenset[str]:
    return frozenset((index.state.get(key) or "").split())


def _set_names(index: Index, key: str, packs: Iterable[str]) -> None:
    text = "\n".join(sorted(set(packs)))
    if text:
        index.state.set(key, text)
    else:
        index.state.remove(key)


@attrs.frozen
class LostBlocks:
    """What a check found lost.

    Attributes:
        packs: names of packs that are missing or have the wrong size.
        blocks: each with the name of the pack that should hold it.
    """

    packs: frozenset[str]
    blocks: frozenset[tuple[BlockHash, str]]


def record_lost_blocks(filesystem: FileSystem, lost: LostBlocks) -> None:
    """Records in the index of an open volume what is lost.

    Raises:
        IndexDatabaseError: the index could not be written.
    """
    for pack in sorted(lost.packs):
        filesystem.packs.mark_pack_lost(pack)
    with filesystem.index_transaction() as index:
        for block, pack in sorted(lost.blocks):
            index.blocks.mark_lost(block, pack)


def save_lost_block_note(folder: Path, lost: LostBlocks) -> None:
    """Saves a note for the next writer, in place of an earlier one; removes that if nothing is lost.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / NOTE_NAME
    if not lost.packs and not lost.blocks:
        path.unlink(missing_ok=True)
        return
    note = {"packs": sorted(lost.packs), "blocks": sorted([block.hex(), pack] for block, pack in lost.blocks)}
    replace_file(path, json.dumps(note), sync=False)


def apply_lost_block_note(folder: Path, filesystem: FileSystem) -> None:
    """Records in the index of an open volume what a note says, and removes the note once that is durable.

    Raises:
        IndexDatabaseError, OSError: the local disk failed.
    """
    path = folder / NOTE_NAME
    try:
        note = json.loads(path.read_text())
        lost = LostBlocks(
            frozenset(str(pack) for pack in note["packs"]),
            frozenset((BlockHash(bytes.fromhex(block)), str(pack)) for block, pack in note["blocks"]),
        )
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be read and is removed; cas3fs fsck writes it again: %s", path, error)
    else:
        record_lost_blocks(filesystem, lost)
        filesystem.commit()
    path.unlink()


def record_missing_packs(index: Index, store: ObjectStore, snapshot: str | None) -> None:
    """Records as lost the packs that were stored after a snapshot and are missing in the store. Takes one HEAD for each
    pack that was stored after it. To be called before a file system uses the index.

    Args:
        snapshot: its id; None for all packs.

    Raises:
        StoreError: the store failed.
        IndexDatabaseError: the index cannot be read or written.
    """
    packs = index.blocks.packs_after(-1 if snapshot is None else ordinal_of(SnapshotNumber.parse(snapshot)))
    if not packs:
        return
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="packs") as pool:
        exist = pool.map(PackStore(store).exists, packs)
        missing = [pack for pack, exists in zip(packs, exist, strict=True) if not exists]
    if not missing:
        return
    with index.operation():
        for pack in missing:
            index.blocks.mark_pack_lost(pack)
    index.commit()
    _log.error(
        "%s lacks %d packs that were stored after its newest snapshot (was it restored from a backup?): their data "
        "gives I/O errors until it is written again; `cas3fs fsck` lists the files",
        store.url,
        len(missing),
    )
