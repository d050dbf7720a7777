# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges and bytes of layers, against sets and dictionaries of single bytes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.filesystem.state.extents import MemoryBytes, RangeSet, pack_ranges, unpack_ranges
from cas3fs.filesystem.state.layer_files import FileBytes, LayerFiles
from cas3fs.filesystem.state.layers import Layer, LayerLookup, changed_ranges
from cas3fs.localdisk import LocalDisk

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 60), st.integers(1, 20)),
        st.tuples(st.just("truncate"), st.integers(0, 80), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, 70), st.integers(1, 20)),
    ),
    max_size=30,
)


@given(STEPS, st.integers(0, 80), st.integers(0, 80))
def test_a_range_set_is_a_set_of_bytes(steps: list[tuple[str, int, int]], start: int, end: int) -> None:
    ranges, model = RangeSet(), set[int]()
    for step, at, length in [*steps, ("remove", start, 7)]:
        if step == "write":
            ranges.add(at, at + length)
            model |= set(range(at, at + length))
        elif step == "remove":
            ranges.remove(at, at + length)
            model -= set(range(at, at + length))
        else:
            ranges.truncate(at)
            model = {byte for byte in model if byte < at}
    assert {byte for low, high in ranges for byte in range(low, high)} == model
    assert ranges.size_bytes == len(model)
    assert all(high < low for high, low in zip(ranges.ends, ranges.starts[1:], strict=False))
    found = {byte for low, high in ranges.within(start, end) for byte in range(low, high)}
    assert found == {byte for byte in model if start <= byte < end}
    assert ranges.overlaps(start, end) == bool(found) or start >= end
    others = {byte for low, high in ranges.outside(start, end) for byte in range(low, high)}
    assert others == set(range(start, end)) - model


@given(STEPS, st.integers(0, 80), st.integers(0, 80))
def test_memory_bytes_give_back_what_was_written_last(steps: list[tuple[str, int, int]], start: int, end: int) -> None:
    held, model = MemoryBytes(), dict[int, int]()
    for number, (step, at, length) in enumerate(steps):
        if step == "write":
            held.write(at, bytes([number]) * length)
            model |= dict.fromkeys(range(at, at + length), number)
        elif step == "remove":
            held.remove(at, at + length)
            model = {byte: value for byte, value in model.items() if not at <= byte < at + length}
        else:
            held.truncate(at)
            model = {byte: value for byte, value in model.items() if byte < at}
    assert held.size_bytes == len(model)
    found = {}
    for low, high in held.within(start, end):
        found |= dict(zip(range(low, high), held.read(low, high), strict=True))
    assert found == {byte: value for byte, value in model.items() if start <= byte < end}
    assert held.overlaps(start, end) == bool(found) or start >= end
    again = MemoryBytes.from_joined(held.ranges(), held.joined())
    assert again.ranges() == held.ranges()
    assert again.joined() == held.joined()


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**61)), max_size=8))
def test_ranges_survive_packing(pairs: list[tuple[int, int]]) -> None:
    ranges = list(RangeSet((start, start + length) for start, length in pairs))
    assert unpack_ranges(pack_ranges(ranges)) == ranges


@pytest.mark.parametrize("blob", [b"x", pack_ranges([(5, 3)]), pack_ranges([(0, 9), (5, 12)]), pack_ranges([(-4, 2)])])
def test_a_damaged_list_of_ranges_is_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="list of ranges"):
        unpack_ranges(blob)


def test_a_file_that_was_cut_short_is_told(tmp_path: Path) -> None:
    files = LayerFiles(tmp_path, LocalDisk(), lambda held, error: None)
    held = FileBytes(tmp_path / "1-1", files, create=True)
    held.finish_write(held.write(0, b"x" * 100))
    found = memoryview(bytearray(10))
    held.read_into(10, found)
    assert found == b"x" * 10
    (tmp_path / "1-1").write_bytes(b"x" * 15)
    with pytest.raises(OSError, match="shorter than its ranges"):
        held.read_into(10, found)
    files.close()


def layer(seq: int, size: int, floor: int, *written: tuple[int, bytes]) -> Layer:
    made = Layer(seq, size, 0, 0)
    made.floor = floor
    for offset, data in written:
        made.bytes.write(offset, data)  # type: ignore[union-attr]
    return made


def test_upper_layers_hide_lower_ones_and_floors_hide_all_below() -> None:
    lower = layer(1, 100, 100, (0, b"a" * 50))
    upper = layer(2, 100, 20, (30, b"b" * 10))
    view = LayerLookup([lower, upper], 0, 100)
    assert sorted((start, end, held.seq) for start, end, held in view.pieces) == [(0, 20, 1), (30, 40, 2)]
    assert view.gaps == []
    assert list(changed_ranges([lower, upper])[0]) == [(0, 20), (30, 40)]


def test_the_index_has_what_no_layer_holds_below_the_lowest_floor() -> None:
    assert LayerLookup([layer(1, 100, 60, (10, b"x" * 10))], 5, 90).gaps == [(5, 10), (20, 60)]


def test_holes_hide_lower_layers_and_the_index_and_writes_fill_them() -> None:
    lower = layer(1, 100, 100, (0, b"a" * 50))
    punched = layer(2, 100, 100)
    punched.holes.add(10, 70)
    upper = layer(3, 100, 100, (20, b"b" * 10))
    view = LayerLookup([lower, punched, upper], 0, 100)
    assert sorted((start, end, held.seq) for start, end, held in view.pieces) == [(0, 10, 1), (20, 30, 3)]
    assert view.gaps == [(70, 100)]
    written, holes = changed_ranges([lower, punched, upper])
    assert (list(written), list(holes)) == ([(0, 10), (20, 30)], [(10, 20), (30, 70)])
