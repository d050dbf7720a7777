# SPDX-License-Identifier: GPL-3.0-or-later
"""What no chunk names is found, taken out, and never more than that."""

from pathlib import Path

from cas3fs.index import GarbageReader, Index, PackRow
from tests.index.conftest import add_file, make_pack

YOUNG = 10


def put(index: Index, name: str, born: int, used: int, count: int = 4) -> tuple[int, list[bytes]]:
    """A pack of `count` blocks, the first `used` of which a file names; gives the file and the hashes."""
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
    with GarbageReader(path) as reader:
        return {use.name: (use.blocks, use.live_blocks, use.died) for use in reader.pack_uses()}


def drop_all(index: Index, young: int = YOUNG, batch: int = 1000) -> int:
    with GarbageReader(index.path) as reader:
        limits = reader.dead_limits(young, batch)
    after, dropped = 0, 0
    with index.operation():
        for limit in limits:
            dropped += index.garbage.drop_dead(after, limit, young)
            after = limit
        index.garbage.bury(YOUNG, young)
    index.commit()
    return dropped


def test_dead_blocks_go_and_live_ones_stay(index: Index, path: Path) -> None:
    _, hashes = put(index, "half", 1, 2)
    put(index, "dead", 1, 0)
    assert uses(path) == {"half": (4, 2, None), "dead": (4, 0, None)}
    assert drop_all(index, batch=3) == 6
    assert uses(path) == {"half": (2, 2, None), "dead": (0, 0, YOUNG)}
    assert set(index.blocks.find(hashes)) == set(hashes[:2])


def test_what_is_young_is_left_alone(index: Index, path: Path) -> None:
    put(index, "young", YOUNG, 0)
    assert drop_all(index) == 0
    assert uses(path) == {"young": (4, 0, None)}


def test_a_block_that_was_named_after_the_look_is_not_dropped(index: Index, path: Path) -> None:
    file, hashes = put(index, "pack", 1, 0)
    with GarbageReader(path) as reader:
        (limit,) = reader.dead_limits(YOUNG)
    with index.operation():
        number = index.blocks.find(hashes)[hashes[1]]
        index.chunks.replace(file, 0, 4096, [(0, 4096, number, 0)])
    with index.operation():
        assert index.garbage.drop_dead(0, limit, YOUNG) == 3
        assert index.garbage.bury(YOUNG, YOUNG) == 0
    assert set(index.blocks.find(hashes)) == {hashes[1]}


def test_batches_cover_all_that_is_dead(index: Index, path: Path) -> None:
    put(index, "one", 1, 1, count=100)
    put(index, "two", 1, 0, count=50)
    with GarbageReader(path) as reader:
        assert len(reader.dead_limits(YOUNG, 20)) == 8
        assert reader.dead_limits(YOUNG, 149) == reader.dead_limits(YOUNG)
    assert drop_all(index, batch=20) == 149


def test_moved_blocks_lie_in_the_new_pack_alone(index: Index, path: Path) -> None:
    _, hashes = put(index, "old", 1, 2)
    with GarbageReader(path) as reader:
        (live,) = reader.live_blocks(["other", "old"])
    assert [block.hash for block in live] == hashes[:2]
    moved = make_pack("new", 2)
    blocks = [block._replace(hash=was.hash) for block, was in zip(moved.blocks, live, strict=True)]
    with index.operation():
        assert index.garbage.move_blocks(moved._replace(blocks=blocks), ["old", "gone"], YOUNG) == 1
    index.commit()
    assert uses(path) == {"old": (3, 1, None), "new": (1, 1, None)}
    drop_all(index)
    assert uses(path) == {"old": (1, 1, None), "new": (1, 1, None)}
    with GarbageReader(path) as reader:
        assert reader.used_packs() == {"old", "new"}


def test_rows_of_dead_packs_go_and_of_others_stay(index: Index, path: Path) -> None:
    put(index, "dead", 1, 0)
    put(index, "live", 1, 1)
    drop_all(index)
    with index.operation():
        index.garbage.set_death(["dead", "live"], 7)
        index.garbage.forget_packs(["live"])
    assert [(row.name, row.died) for row in index.blocks.packs()] == [("dead", 7), ("live", None)]
    with index.operation():
        index.garbage.forget_packs(["dead", "live"])
    assert [row.name for row in index.blocks.packs()] == ["live"]


def test_what_a_snapshot_of_another_line_needs_is_merged_in(index: Index, path: Path) -> None:
    put(index, "ours", 1, 1)
    put(index, "dead", 1, 0)
    drop_all(index)
    with index.operation():
        index.garbage.set_death(["dead"], 3)
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


def test_a_restored_index_forgets_what_no_chunk_names(index: Index) -> None:
    _, hashes = put(index, "young", YOUNG, 1)
    with index.operation():
        assert index.garbage.drop_unnamed() == 3
    assert set(index.blocks.find(hashes)) == {hashes[0]}
