# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of references, merged ranges, and which pages entries are replaced."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.blocks.codec import Compression, encode
from cas3fs.entries.kinds import PagesUse
from cas3fs.errors import SnapshotDamaged
from cas3fs.snapshots.ranged_reads import LARGEST_GAP_BYTES, LONGEST_READ_BYTES, WantedRange, merge_ranges
from cas3fs.snapshots.tree import (
    LARGE_PAGES_BYTES,
    PAGES_AFTER_REWRITE,
    PAGES_LIMIT,
    ReferenceList,
    SegmentReference,
    decode_list,
    encode_list,
    stale_pages,
)
from cas3fs.values import LARGEST_EPOCH, SnapshotNumber

ZSTD = Compression.parse("zstd:3")
PAGES = [str(SnapshotNumber(epoch, sequence)) for epoch in (1, 2, 99_999_999) for sequence in (1, 2**40)]

references = st.builds(
    SegmentReference,
    st.binary(min_size=16, max_size=16),
    st.sampled_from(
        [str(SnapshotNumber(1, 1)), str(SnapshotNumber(7, 123)), str(SnapshotNumber(LARGEST_EPOCH, 10**10 - 1))]
    ),
    st.integers(0, 2**40),
    st.integers(1, 2**32 - 1),
)


@given(st.lists(references, max_size=40))
def test_a_decoded_list_equals_the_original(content: list[SegmentReference]) -> None:
    decoded = decode_list(encode_list(ReferenceList(content), ZSTD), 40)
    assert decoded.references() == tuple(content)
    assert decoded == ReferenceList(content)
    assert len(decoded) == len(content)
    assert sum(decoded.uses.values()) == sum(one.length for one in content)


def test_a_list_of_adjacent_segments_is_little_more_than_its_hashes() -> None:
    noise = [bytes([number, 255 - number]) * 8 for number in range(256)]
    content, end = [], 100
    for digest in noise:
        content.append(SegmentReference(digest, PAGES[0], end, 5000))
        end += 5000
    assert len(encode_list(ReferenceList(content), Compression.parse("none"))) > len(
        encode_list(ReferenceList(content), ZSTD)
    )
    assert len(encode_list(ReferenceList(content), ZSTD)) < 256 * 16 + 300


def test_a_list_longer_than_allowed_is_refused() -> None:
    content = [SegmentReference(bytes(16), PAGES[0], 0, 1)] * 9
    with pytest.raises(SnapshotDamaged):
        decode_list(encode_list(ReferenceList(content), ZSTD), 1)


def stored(plain: bytes) -> bytes:
    return struct.pack(">I", len(plain)) + encode(plain, Compression.parse("none"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\x00",
        struct.pack(">I", 2**32 - 1) + b"\x00",
        stored(b""),
        stored(b"CAS3LIST" + bytes(8)),
        stored(struct.pack(">8sHHH2x", b"CAS3LIST", 2, 0, 0)),
        stored(struct.pack(">8sHHH2x", b"CAS3LIST", 1, 1, 0)),
        stored(struct.pack(">8sHHH2x", b"CAS3LIST", 1, 1, 0) + bytes(30)),
        stored(struct.pack(">8sHHH2xIQHIq16s", b"CAS3LIST", 1, 1, 1, 1, 1, 0, 5, -1, b"")),
        stored(struct.pack(">8sHHH2xIQHIq16s", b"CAS3LIST", 1, 1, 1, 1, 1, 0, 0, 0, b"")),
        stored(struct.pack(">8sHHH2xIQHIq16s", b"CAS3LIST", 1, 1, 1, 1, 1, 1, 5, 0, b"")),
    ],
)
def test_an_invalid_list_is_damage(body: bytes) -> None:
    with pytest.raises(SnapshotDamaged):
        decode_list(body, 256)


@given(st.binary(max_size=200))
def test_random_bytes_are_damage_and_never_another_error(body: bytes) -> None:
    with pytest.raises(SnapshotDamaged):
        decode_list(stored(b"CAS3LIST\x00\x01" + body), 1000)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 10**8), st.integers(1, 10**6)), max_size=60))
def test_merged_ranges_cover_each_wanted_range_once(ranges: list[tuple[str, int, int]]) -> None:
    wanted = [WantedRange(key, offset, length, number) for number, (key, offset, length) in enumerate(ranges)]
    seen: list[int] = []
    for span in merge_ranges(wanted):
        assert span.end - span.start <= LONGEST_READ_BYTES
        for one in span.wanted:
            assert one.key == span.key and span.start <= one.offset and one.offset + one.length <= span.end
            seen.append(one.purpose)
    assert sorted(seen) == list(range(len(wanted)))


def test_only_near_ranges_are_merged() -> None:
    near = [WantedRange("a", 0, 10, 1), WantedRange("a", 10 + LARGEST_GAP_BYTES, 10, 2)]
    far = WantedRange("a", 21 + 2 * LARGEST_GAP_BYTES, 10, 3)
    assert [[one.purpose for one in span.wanted] for span in merge_ranges([far, *near])] == [[1, 2], [3]]


def test_few_well_used_pages_are_kept() -> None:
    uses = [PagesUse(f"p{number:03}", 10, 100) for number in range(PAGES_LIMIT - 1)]
    assert stale_pages([*uses[1:], PagesUse("large", LARGE_PAGES_BYTES, 2 * LARGE_PAGES_BYTES)]) == frozenset()


def test_a_large_object_that_is_mostly_unneeded_is_replaced() -> None:
    assert stale_pages([PagesUse("large", LARGE_PAGES_BYTES // 2 - 1, LARGE_PAGES_BYTES)]) == {"large"}


def test_the_least_needed_of_too_many_objects_are_replaced() -> None:
    uses = [PagesUse(f"p{number:03}", number, 1000) for number in range(PAGES_LIMIT)]
    assert stale_pages(uses) == {f"p{number:03}" for number in range(PAGES_LIMIT - PAGES_AFTER_REWRITE)}
