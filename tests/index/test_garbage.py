# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks that no chunk names are found and deleted, and no others."""

from contextlib import suppress
from pathlib import Path

import pytest

from cas3fs.index import Index, PackRow, scans
from cas3fs.index.scans import (
    DeadBlockScan,
    DeadPackScan,
    EmptyPackScan,
    LiveBlockScan,
    NeededPackScan,
    PackScan,
    PackUseScan,
)
from tests.index.conftest import YOUNG, add_file, bury, drop_all, make_pack, watch


def put(index: Index, name: str, born: int, used: int, count: int = 4) -> tuple[int, list[bytes]]:
    """A pack of `count` blocks, the first `used` of which a file names; returns the file and the hashes."""
    pack = make_pack(name, count)
    hashes = [block.hash for block in pack.blocks]
    with index.operation():
        index.blocks.add_pack(pack, born)
        ids = index.blocks.find(hashes)
        file = add_file(index, name.encode())
        index.chunks.replace(file, 0, 4096 * used, [(4096 * n, 4096, ids[hashes[n]], 0) for n in range(used)])
    index.commit()
    return file, hashes


def uses(path: Path) -> dict[str, tuple[int, int, int | None]]:
    with PackUseScan(path) as scan:
        return {use.name: (use.blocks, use.live_blocks, use.died) for use in scan}


def test_dead_blocks_are_deleted_and_live_ones_stay(index: Index, path: Path) -> None:
    _, hashes = put(index, "half", 1, 2)
    put(index, "dead", 1, 0)
    assert uses(path) == {"half": (4, 2, None), "dead": (4, 0, None)}
    assert drop_all(index) == 6
    assert uses(path) == {"half": (2, 2, None), "dead": (0, 0, YOUNG)}
    assert set(index.blocks.find(hashes)) == set(hashes[:2])


def test_what_is_young_is_left_alone(index: Index, path: Path) -> None:
    put(index, "young", YOUNG, 0)
    assert drop_all(index) == 0
    assert uses(path) == {"young": (4, 0, None)}


@pytest.mark.promise("gc-decides-again-when-it-deletes", "gc-memory-is-bounded")
@pytest.mark.parametrize("how", ["replaced", "entered with others", "by a repair"])
def test_a_block_named_after_the_scan_is_not_deleted(index: Index, path: Path, how: str) -> None:
    file, hashes = put(index, "pack", 1, 0)
    watch(index)
    with DeadBlockScan(path, YOUNG) as scan:
        (dead,) = scan
    number = index.blocks.find(hashes)[hashes[1]]
    with index.operation():
        if how == "replaced":
            index.chunks.replace(file, 0, 4096, [(0, 4096, number, 0)])
        elif how == "entered with others":
            index.chunks.all_stored([(file, 4096, 1, 1, 1)], [(file, (0, 4096, number, 0))])
        else:
            index.repairs()._database.execute(f"INSERT INTO chunks VALUES ({file}, 0, 4096, {number}, 0)")
    with index.operation():
        assert index.garbage.delete_blocks(dead, YOUNG) == 3
    index.commit()
    bury(index)
    assert uses(path) == {"pack": (1, 1, None)}
    assert set(index.blocks.find(hashes)) == {hashes[1]}


@pytest.mark.promise("gc-memory-is-bounded")
def test_a_block_whose_naming_was_undone_is_deleted(index: Index, path: Path) -> None:
    file, hashes = put(index, "pack", 1, 0)
    watch(index)
    number = index.blocks.find(hashes)[hashes[1]]
    with suppress(KeyError), index.operation():
        index.chunks.replace(file, 0, 4096, [(0, 4096, number, 0)])
        raise KeyError
    with DeadBlockScan(path, YOUNG) as scan, index.operation():
        assert sum(index.garbage.delete_blocks(dead, YOUNG) for dead in scan) == 4


@pytest.mark.promise("gc-memory-is-bounded")
def test_a_pack_filled_after_the_scan_is_not_dead(index: Index, path: Path) -> None:
    put(index, "empty", 1, 0)
    drop_all(index)
    with index.operation():
        index._database.execute("UPDATE packs SET died = NULL")
    watch(index)
    with EmptyPackScan(path, YOUNG) as scan:
        (empty,) = scan
    with index.operation():
        index.blocks.add_pack(make_pack("empty", 4), 1)
        index.garbage.mark_packs_dead(empty, YOUNG, YOUNG)
    index.commit()
    assert uses(path) == {"empty": (4, 0, None)}


def test_what_is_dead_comes_in_batches(index: Index, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "PAGE_ROWS", 20)
    put(index, "one", 1, 1, count=100)
    put(index, "two", 1, 0, count=50)
    with DeadBlockScan(path, YOUNG) as dead:
        assert [len(blocks) for blocks in dead] == [20] * 7 + [9]
    assert drop_all(index) == 149


def test_packs_come_by_name_with_their_blocks(index: Index, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "PAGE_ROWS", 2)
    for name in ("b", "c", "a"):
        put(index, name, 1, 1)
    with PackScan(path) as scan:
        found = list(scan)
        assert [(pack.name, pack.blocks) for pack in found] == [("a", 4), ("b", 4), ("c", 4)]
        assert all(pack.used and 0 < pack.block_bytes <= pack.size for pack in found)
        assert list(scan) == found


def test_moved_blocks_lie_in_the_new_pack_alone(index: Index, path: Path) -> None:
    _, hashes = put(index, "old", 1, 2)
    with PackUseScan(path) as used, LiveBlockScan(path, [use.id for use in used] + [77]) as blocks:
        (live,) = blocks
    assert [block.hash for block in live] == hashes[:2]
    moved = make_pack("new", 2)
    blocks = [block._replace(hash=was.hash) for block, was in zip(moved.blocks, live, strict=True)]
    with index.operation():
        assert index.garbage.move_blocks(moved._replace(blocks=blocks), ["old", "gone"], YOUNG) == 1
    index.commit()
    assert uses(path) == {"old": (3, 1, None), "new": (1, 1, None)}
    drop_all(index)
    assert uses(path) == {"old": (1, 1, None), "new": (1, 1, None)}
    put(index, "dead", 1, 0)
    with NeededPackScan(path) as needed:
        assert [name in needed for name in ("old", "new", "dead", "gone")] == [True, True, False, False]


def test_rows_of_dead_packs_are_deleted_and_others_stay(index: Index, path: Path) -> None:
    put(index, "dead", 1, 0)
    put(index, "live", 1, 1)
    drop_all(index)
    with index.operation():
        index.garbage.set_died(["dead", "live"], 7)
        index.garbage.delete_packs(["live"])
    assert [(row.name, row.died) for row in index.blocks.packs()] == [("dead", 7), ("live", None)]
    index.commit()
    with DeadPackScan(path) as dead:
        assert [(pack.name, pack.born, pack.died) for pack in dead] == [("dead", 1, 7)]
    assert index.garbage.still_dead(["dead", "live", "gone"], 6) == []
    assert index.garbage.still_dead(["dead", "live", "gone"], 7) == ["dead"]
    assert index.garbage.unknown_packs(["dead", "live", "gone"]) == ["gone"]
    with index.operation():
        index.garbage.delete_packs(["dead", "live"])
    assert [row.name for row in index.blocks.packs()] == ["live"]


@pytest.mark.promise("packs-of-all-snapshots-are-merged-first")
def test_what_a_snapshot_of_another_line_needs_is_merged_in(index: Index, path: Path) -> None:
    put(index, "ours", 1, 1)
    put(index, "dead", 1, 0)
    drop_all(index)
    with index.operation():
        index.garbage.set_died(["dead"], 3)
    rows = [
        PackRow("ours", 400, 1, None),
        PackRow("dead", 400, 1, None),
        PackRow("theirs", 400, 4, None),
        PackRow("later", 400, 6, None),
        PackRow("gone", 400, 1, 5),
    ]
    with index.operation():
        assert index.garbage.merge_packs(rows, 5) == 2
        assert index.garbage.merge_packs(rows, 5) == 0
    known = {row.name: (row.born, row.died) for row in index.blocks.packs()}
    assert known == {"ours": (1, None), "dead": (1, 6), "theirs": (4, 6)}


def test_a_restored_index_deletes_blocks_that_no_chunk_names(index: Index) -> None:
    _, hashes = put(index, "young", YOUNG, 1)
    with index.operation():
        assert index.garbage.delete_unreferenced_blocks() == 3
    assert set(index.blocks.find(hashes)) == {hashes[0]}
