# SPDX-License-Identifier: GPL-3.0-or-later
"""An older state that becomes the newest again knows every pack, and uses no number twice."""

from pathlib import Path

import pytest

from cas3fs.index import Index
from cas3fs.index.pack_merge import merge_newest_packs
from tests.index.conftest import add_file, make_pack

DIED = 9


def index_with(path: Path, *packs: str, files: int) -> Path:
    """An index that knows those packs, born as the first snapshot, and has had so many files."""
    with Index.open(path, create=True) as index:
        with index.operation():
            for name in packs:
                index.blocks.add_pack(make_pack(name, 1), 1)
            for _ in range(files):
                index.namespace.remove_inodes([add_file(index)])
        index.commit()
    return path


def bury(path: Path, pack: str, died: int) -> None:
    with Index.open(path) as index:
        with index.operation():
            index.repairs().set_died(pack, died)
        index.commit()


def deaths(path: Path) -> dict[str, int | None]:
    with Index.open(path) as index:
        return {row.name: row.died for row in index.blocks.packs()}


@pytest.mark.promise("packs-of-all-snapshots-are-merged-first")
def test_an_earlier_death_stays_and_packs_in_use_are_alive(tmp_path: Path) -> None:
    older = index_with(tmp_path / "older", "both", "both, dead since", files=0)
    newest = index_with(tmp_path / "newest", "both", "both, dead since", "newer", "dead before", files=0)
    bury(newest, "both, dead since", 4)
    bury(newest, "dead before", 5)
    merge_newest_packs(older, newest, DIED)
    assert deaths(older) == {"both": None, "both, dead since": None, "newer": DIED, "dead before": 5}


def test_numbers_go_on_from_the_greater_of_both_sides(tmp_path: Path) -> None:
    few, many = index_with(tmp_path / "few", files=3), index_with(tmp_path / "many", files=30)
    few_again = index_with(tmp_path / "few again", files=3)
    merge_newest_packs(few, many, DIED)
    merge_newest_packs(many, few_again, DIED)
    for path in (few, many):
        with Index.open(path) as index, index.operation():
            assert add_file(index) == 32  # after the root and thirty that went


def test_lost_blocks_are_lost_in_the_older_state_in_the_same_pack(
    tmp_path: Path,
) -> None:
    lost, moved = make_pack("lost", 2), make_pack("moved", 1)
    for name in ("older", "newest"):
        with Index.open(tmp_path / name, create=True) as index:
            with index.operation():
                file = add_file(index)
                index.blocks.add_pack(lost, 1)
                index.blocks.add_pack(moved._replace(name=f"moved in {name}"), 1)
                ids = index.blocks.find([one.hash for one in (*lost.blocks, *moved.blocks)])
                index.chunks.replace(file, 0, 30, [(10 * n, 10, block, 0) for n, block in enumerate(ids.values())])
            index.commit()
    with Index.open(tmp_path / "newest") as index:
        index.blocks.mark_lost(lost.blocks[1].hash, "lost")
        index.blocks.mark_lost(moved.blocks[0].hash, "moved in newest")
        index.commit()
    merge_newest_packs(tmp_path / "older", tmp_path / "newest", DIED)
    with Index.open(tmp_path / "older") as index:
        assert [one.hash for one in index.blocks.lost()] == [lost.blocks[1].hash]
