# SPDX-License-Identifier: GPL-3.0-or-later
"""Walking a directory equals sorting and filtering all its paths."""

import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas3fs.objectstores import directory_walk as walk_module
from cas3fs.objectstores.directory_walk import walk

parts = st.text("ab-.0", min_size=1, max_size=3).filter(lambda part: part[0] not in "-.")
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)


def build(root: Path, wanted: set[str]) -> set[str]:
    """Make the files that can be made; a path below that of a file cannot."""
    made = set()
    for path in sorted(wanted):
        if not any(path.startswith(f"{other}/") for other in made):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"")
            made.add(path)
    return made


@pytest.mark.promise("looking-costs-what-there-is")
@settings(max_examples=settings.default.max_examples * 4 // 5)
@given(
    wanted=st.sets(paths, max_size=12),
    prefix=st.one_of(st.just(""), paths),
    start=st.one_of(st.just(""), paths),
    at_once=st.sampled_from([1, 2, 100]),
)
def test_a_walk_equals_sorting_and_filtering(wanted: set[str], prefix: str, start: str, at_once: int) -> None:
    """Whatever the number of names in memory is."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(walk_module, "NAMES_AT_ONCE", at_once):
        made = build(Path(folder), wanted)
        root = os.open(folder, os.O_RDONLY)
        try:
            found = [path for path, _ in walk(root, prefix, start)]
        finally:
            os.close(root)
    assert found == sorted(path for path in made if path.startswith(prefix) and path > start)


def test_only_folders_that_can_contain_wanted_paths_are_read(tmp_path: Path) -> None:
    for path in ("a/1", "b/1", "c/1"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(b"")
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        steps = walk(root, "", "a/1")
        (tmp_path / "a/1").unlink()
        (tmp_path / "a").rmdir()
        assert next(steps)[0] == "b/1"
        (tmp_path / "c/1").unlink()
        (tmp_path / "c").rmdir()
        assert list(steps) == []  # what vanishes meanwhile is passed over
    finally:
        os.close(root)
