# SPDX-License-Identifier: GPL-3.0-or-later
"""From a list of specs to caches, with those of other packages."""

import logging
from contextlib import closing
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from cas3fs.caches import BlockCache, MemoryCache
from cas3fs.caches.registry import GROUP, make_caches, parse_caches
from cas3fs.caches.specs import CacheContext, CacheSpec
from cas3fs.errors import UsageError
from cas3fs.metrics import Metrics
from cas3fs.values import BlockHash, Buffer
from tests.caches.conftest import make_block


class Misbehaving(BlockCache):
    """Raises or returns wrong results, as its spec says."""

    def __init__(self, how: str) -> None:
        self.how = how

    def get(self, block: BlockHash) -> bytes | None:
        if self.how == "raise":
            raise RuntimeError("failed")
        return b"wrong" if self.how == "lie" else "text"  # type: ignore[return-value]

    def put(self, block: BlockHash, plain: Buffer) -> None:
        raise OSError("failed")

    def contains(self, block: BlockHash) -> bool:
        raise KeyError(block)

    def evict(self, block: BlockHash) -> None:
        raise ValueError

    @property
    def size_bytes(self) -> int:
        raise ZeroDivisionError

    def close(self) -> None:
        raise RuntimeError


def make_misbehaving(spec: CacheSpec, context: CacheContext) -> BlockCache:
    return Misbehaving(spec.argument)


def make_remembering(spec: CacheSpec, context: CacheContext) -> BlockCache:
    return MemoryCache(int(spec.argument))


def make_nothing(spec: CacheSpec, context: CacheContext) -> object:
    return object()


def fail_to_make(spec: CacheSpec, context: CacheContext) -> BlockCache:
    raise RuntimeError("I need more")


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CacheContext:
    """A context in which packages that provide caches are installed."""
    names = {"misbehaving": "make_misbehaving", "remember": "make_remembering"}
    names |= {"nothing": "make_nothing", "failing": "fail_to_make", "lost": "not_there"}
    points = EntryPoints(EntryPoint(name, f"{__name__}:{value}", GROUP) for name, value in names.items())
    monkeypatch.setattr("cas3fs.caches.registry.entry_points", points.select)
    return CacheContext("volume-uuid", tmp_path / "blocks", Metrics())


def make(context: CacheContext, *texts: str) -> BlockCache:
    cache = make_caches(parse_caches(texts).tiers, context)
    assert cache is not None
    return cache


def test_memory_first_in_the_list_sets_the_size_of_the_memory_cache() -> None:
    listed = parse_caches(["memory:256MiB", "disk:10GiB"])
    assert listed.memory_bytes == 256 << 20
    assert [spec.name for spec in listed.tiers] == ["disk"]
    assert parse_caches(["disk:1GiB"]).memory_bytes is None
    assert parse_caches([]) == (None, ())


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["disk"], "is not a cache"),
        (["Disk:1"], "is not a cache"),
        ([":1"], "is not a cache"),
        (["disk:1GiB", "memory:1MiB"], "must come first"),
        (["memory:1MiB", "memory:1MiB"], "must come first"),
        (["memory:lots"], "not a size"),
        (["memory:1MiB?a=b"], "no option a"),
        (["disk:1GiB", "disk:2GiB"], "twice"),
        (["disk:1GiB?x"], "KEY=VALUE"),
        (["disk:1GiB?directory=/a&directory=/b"], "each key once"),
    ],
)
def test_an_invalid_list_is_refused_before_anything_is_opened(texts: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_caches(texts)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("none:1", "there is no cache 'none'; available: disk, failing, .*memcached"),
        ("disk:1?colour=red", "no option colour"),
        ("disk:wide", "disk:wide: 'wide' is not a size"),
        ("memcached:host", "//HOST:PORT"),
        ("memcached://", "is not a server"),
        ("memcached://a:99999", "is not a server"),
        ("memcached://a,a", "twice"),
        ("memcached://a?timeout=soon", "timeout: 'soon' is not a duration"),
        ("memcached://a?item=1", "1KiB to 16MiB"),
        ("web+http:nowhere", "names no web server"),
        ("nothing:1", "made a object instead of a BlockCache"),
        ("failing:1", "failing:1: RuntimeError: I need more"),
        ("lost:1", "lost:1: AttributeError"),
        ("remember:x", "remember:x: ValueError"),
    ],
)
def test_an_error_names_the_spec(context: CacheContext, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make(context, text)


def test_the_directory_of_the_disk_cache_can_be_chosen(context: CacheContext, tmp_path: Path) -> None:
    for text, place in [
        ("disk:1MiB", context.directory),
        (f"disk:1MiB?directory={tmp_path}/else", tmp_path / "else" / "volume-uuid"),
    ]:
        with closing(make(context, text)) as cache:
            cache.put(*make_block(1))
            assert [path for path in place.rglob("*") if path.is_file()]


def test_a_cache_of_another_package_has_its_own_counters(context: CacheContext) -> None:
    block, plain = make_block(1)
    with closing(make(context, "remember:100000", "remember:200000")) as cache:
        assert cache.get(block) is None
        cache.put(block, plain)
        assert cache.get(block) == plain
    figures = context.metrics.snapshot()
    assert (figures["cache.remember.hits"], figures["cache.remember.misses"]) == (1, 1)
    assert figures["cache.remember-2.misses"] == 1


@pytest.mark.parametrize("how", ["raise", "lie", "text"])
def test_faults_of_a_cache_are_misses_counted_and_logged_once(
    context: CacheContext, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    block, plain = make_block(1)
    with caplog.at_level(logging.WARNING), closing(make(context, f"misbehaving:{how}", "remember:100000")) as cache:
        cache.put(block, plain)
        assert cache.get(block) == plain
        assert bytes(cache.get_part(block, 5, 10) or b"") == plain[5:15]
        assert cache.get_many([block]) == {block: plain}
        assert cache.contains_many([block]) == {block}
        cache.evict(block)
        assert cache.get(block) is None
        assert cache.size_bytes >= 0
    assert len([record for record in caplog.records if "misbehaving" in record.message]) == 1
    assert context.metrics.snapshot()["cache.misbehaving.failures"] > 3
