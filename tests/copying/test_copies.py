# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy holds what the source holds, however the destination is encrypted, cut and compressed."""

from typing import Any

import pytest

from .conftest import Pair, filled

ALIKE = {"block_size_bytes": 64 * 1024, "pack_size_bytes": 1 << 20}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (ALIKE, ALIKE),
    "plain-to-encrypted": (ALIKE, ALIKE | {"encrypt": True}),
    "encrypted-to-plain": (ALIKE | {"encrypt": True}, ALIKE),
    "encrypted-to-encrypted": (ALIKE | {"encrypt": True}, ALIKE | {"encrypt": True}),
    "fastcdc-to-fixed": (ALIKE, ALIKE | {"chunker": "fixed"}),
    "fixed-to-fastcdc": (ALIKE | {"chunker": "fixed"}, ALIKE),
    "smaller-blocks": (ALIKE, ALIKE | {"block_size_bytes": 16 * 1024}),
    "encrypted-fixed-to-fixed": (
        ALIKE | {"chunker": "fixed", "encrypt": True},
        ALIKE | {"chunker": "fixed", "block_size_bytes": 256 * 1024, "encrypt": True},
    ),
    "higher-level": (ALIKE, ALIKE | {"compression": "zstd:9"}),
    "uncompressed": (ALIKE, ALIKE | {"compression": "none"}),
    "larger-packs": (ALIKE, ALIKE | {"pack_size_bytes": 4 << 20}),
}


@pytest.mark.promise("a-copy-only-reads-its-source")
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_all_files_of_all_snapshots(volumes: Pair, kind: str) -> None:
    of_source, of_destination = KINDS[kind]
    source, destination = volumes.make(**of_source), volumes.make(**of_destination)
    originals = filled(source)
    before = source.objects()
    result = volumes.copy(destination, source, verify=True)
    assert source.objects() == before
    copies = destination.snapshots()
    assert [one.copied for one in copies] == originals
    originally = {one.id: one for one in source.snapshots()}
    for one in copies:
        original = originally[str(one.copied)]
        assert (one.name, one.time) == (original.name, original.time)
        assert destination.tree(one.id) == source.tree(original.id)
        for fact in ("files", "directories", "symlinks", "others", "logical_bytes"):
            assert one.facts[fact] == original.facts[fact]
    assert destination.check() == (0, {})
    assert (result.problems, result.lost_blocks, result.skipped) == ([], 0, [])
    assert result.verified is not None
    assert (result.verified.snapshots, result.verified.differences) == (3, 0)
    assert result.verified.read_bytes > 5_000_000
