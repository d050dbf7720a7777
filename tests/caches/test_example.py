# SPDX-License-Identifier: GPL-3.0-or-later
"""The example in docs/caches.rst works, and is about 30 lines long."""

import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cas3fs.caches.base import BlockCache
from cas3fs.caches.registry import make_caches, parse_caches
from cas3fs.caches.specs import CacheContext
from cas3fs.metrics import Metrics
from cas3fs.testing.contracts.blockcache import BlockCacheContract, make_block

DOCUMENT = (Path(__file__).parents[2] / "docs" / "caches.rst").read_text()


def example() -> str:
    """The code of the example."""
    found = re.search(r"in a dbm file::\n\n((?:    .*\n|\n)+)", DOCUMENT)
    assert found is not None
    return textwrap.dedent(found.group(1))


def example_class() -> Any:
    names: dict[str, Any] = {}
    exec(compile(example(), "docs/caches.rst", "exec"), names)
    return names["DbmCache"]


class TestTheExample(BlockCacheContract):
    tells_size = False

    @pytest.fixture
    def cache(self, tmp_path: Path) -> BlockCache:
        made: BlockCache = example_class()(str(tmp_path / "blocks"))
        return made


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example as an installed package, with the entry point from the document."""
    site = tmp_path / "site"
    (site / "example-1.dist-info").mkdir(parents=True)
    (site / "example_dbm_cache.py").write_text(example())
    declared = re.search(r'\[project\.entry-points\."(.*)"\]\s+(\w+) = "(.*)"', DOCUMENT)
    assert declared is not None
    group, name, value = declared.groups()
    (site / "example-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1\n")
    (site / "example-1.dist-info" / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(site)
    yield site
    sys.modules.pop("example_dbm_cache", None)


def test_the_documented_entry_point_puts_the_example_into_the_list_of_caches(installed: Path, tmp_path: Path) -> None:
    metrics = Metrics()
    block, plain = make_block(1)
    listed = parse_caches(["disk:1MiB", f"dbm:{tmp_path}/blocks"])
    for expected in (None, plain):
        context = CacheContext("uuid", tmp_path / f"disk-{expected is None}", metrics)
        cache = make_caches(listed.tiers, context)
        assert cache is not None
        with closing(cache):
            assert cache.get(block) == expected
            cache.put(block, plain)
    assert metrics.snapshot()["cache.dbm.hits"] == 1


def test_the_example_has_about_thirty_lines() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 32
