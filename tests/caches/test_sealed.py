# SPDX-License-Identifier: GPL-3.0-or-later
"""Caches outside this machine see sealed blocks only, and cannot make a reader believe anything else."""

import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.caches import BlockCache, MemoryCache
from cas3fs.caches.base import LARGEST_BLOCK_BYTES, LARGEST_VALUE_BYTES, check_plainly
from cas3fs.caches.registry import GROUP, CacheSeals, make_caches, parse_caches
from cas3fs.caches.sealed import SealedCache
from cas3fs.caches.specs import CacheContext, CacheSpec
from cas3fs.caches.web import WebCache
from cas3fs.encryption.ciphers import AES_256_GCM, CHACHA20_POLY1305, CIPHERS, SealBroken
from cas3fs.encryption.keyring import Keyring, ObjectKeys
from cas3fs.encryption.padding import padded_length
from cas3fs.encryption.shared_caches import OVERHEAD_BYTES, SharedCacheSeal
from cas3fs.metrics import Metrics
from cas3fs.testing.servers import MemcachedProcess
from cas3fs.values import BlockHash, Buffer
from tests.caches.conftest import make_block, seal_of
from tests.caches.web_server import WebServer

VOLUME = uuid.UUID(int=0x5EA1ED)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE, OTHER = make_block(1, 5000), make_block(2, 5000)


class Recorder(MemoryCache):
    """Keeps what it is given, by name, where a test can change it."""

    def __init__(self) -> None:
        super().__init__(1 << 26)
        self.values: dict[BlockHash, bytes] = {}
        self.evicted: list[BlockHash] = []

    def get(self, block: BlockHash) -> bytes | None:
        return self.values.get(block)

    def put(self, block: BlockHash, plain: Buffer) -> None:
        self.values[block] = bytes(plain)

    def evict(self, block: BlockHash) -> None:
        self.evicted.append(block)
        self.values.pop(block, None)


@pytest.fixture
def inner() -> Recorder:
    return Recorder()


@pytest.fixture
def open_sealed(inner: Recorder, metrics: Metrics) -> Callable[..., SealedCache]:
    """A function that wraps the same inner cache, as another machine or with another key."""

    def wrap(volume: uuid.UUID = VOLUME, cipher: str = AES_256_GCM) -> SealedCache:
        return SealedCache(inner, seal_of(volume, cipher), check_plainly, metrics)

    return wrap


def test_names_and_values_show_nothing_of_the_block(inner: Recorder, open_sealed: Callable[..., SealedCache]) -> None:
    cache = open_sealed()
    cache.put(*ONE)
    ((name, value),) = inner.values.items()
    assert name != ONE[0]
    assert ONE[0] not in value
    assert not any(ONE[1][start : start + 16] in value for start in range(0, len(ONE[1]), 16))


def test_another_machine_with_the_key_finds_the_block(open_sealed: Callable[..., SealedCache]) -> None:
    open_sealed().put(*ONE)
    assert open_sealed().get(ONE[0]) == ONE[1]


def test_after_a_rotation_of_the_keys_blocks_are_misses(inner: Recorder, metrics: Metrics) -> None:
    keyring = Keyring.new(NOW)
    caches = []
    for one in (keyring, keyring.rotated(NOW)):
        keys = ObjectKeys(one, VOLUME.bytes, AES_256_GCM)
        caches.append(SealedCache(inner, SharedCacheSeal(keys.cache_key(), keys.cipher), check_plainly, metrics))
    caches[0].put(*ONE)
    assert caches[1].get(ONE[0]) is None
    caches[1].put(*ONE)
    assert caches[1].get(ONE[0]) == ONE[1]
    assert len(inner.values) == 2
    assert metrics.snapshot()["cache.memory.rotten"] == 0


def _swap(values: dict[BlockHash, bytes]) -> None:
    one, other = values
    values[one], values[other] = values[other], values[one]


def _flip(values: dict[BlockHash, bytes]) -> None:
    for name, value in values.items():
        values[name] = value[:200] + bytes([value[200] ^ 1]) + value[201:]


def _cut(values: dict[BlockHash, bytes]) -> None:
    for name, value in values.items():
        values[name] = value[:-1]


def _put_plain(values: dict[BlockHash, bytes]) -> None:
    values.update(zip(list(values), (ONE[1], OTHER[1]), strict=True))


def _empty(values: dict[BlockHash, bytes]) -> None:
    for name in values:
        values[name] = b""


def _seal_another_block(values: dict[BlockHash, bytes]) -> None:
    """As somebody could who has the key of shared caches, and not that of names."""
    for name in values:
        values[name] = seal_of(VOLUME).seal(name, b"forged")


@pytest.mark.parametrize("forge", [_swap, _flip, _cut, _put_plain, _empty, _seal_another_block])
def test_a_forged_value_is_a_miss_counted_and_evicted(
    inner: Recorder,
    open_sealed: Callable[..., SealedCache],
    metrics: Metrics,
    forge: Callable[[dict[BlockHash, bytes]], None],
) -> None:
    cache = open_sealed()
    cache.put_many(dict((ONE, OTHER)))
    forge(inner.values)
    names = list(inner.values)
    assert cache.get(ONE[0]) is None
    assert cache.get_many([OTHER[0]]) == {}
    assert cache.get_part(ONE[0], 0, 10) is None
    assert metrics.snapshot()["cache.memory.rotten"] == 2
    assert inner.evicted == names
    assert not inner.values


@pytest.mark.parametrize("cipher", CIPHERS)
@given(plain=st.binary(max_size=3000), changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255))))
def test_a_value_opens_to_what_was_sealed_or_not_at_all(
    cipher: str, plain: bytes, changes: list[tuple[int, int]]
) -> None:
    seal = seal_of(VOLUME, cipher)
    name = seal.name_of(plain)
    value = seal.seal(name, plain)
    assert len(value) == OVERHEAD_BYTES + padded_length(len(plain) + 4)
    assert seal.open(name, value) == plain
    changed = bytearray(value)
    for place, bits in changes:
        changed[place % len(value)] ^= bits
    if changed != value:
        with pytest.raises(SealBroken):
            seal.open(name, changed)
    for length in range(0, len(value), 97):
        with pytest.raises(SealBroken):
            seal.open(name, value[:length])


def test_values_of_one_block_differ_each_time() -> None:
    seal = seal_of(VOLUME)
    assert len({seal.seal(b"name", ONE[1]) for _ in range(100)}) == 100


def test_lengths_are_told_in_steps_only() -> None:
    seal = seal_of(VOLUME)
    lengths = {len(seal.seal(b"name", bytes(length))) for length in range(1_000_000, 1_010_000, 100)}
    assert len(lengths) == 1


def test_a_sealed_block_of_the_largest_size_fits_into_every_cache(web: WebServer) -> None:
    block, plain = make_block(1, LARGEST_BLOCK_BYTES)
    seal = seal_of(VOLUME)
    assert len(seal.seal(seal.name_of(block), plain)) <= LARGEST_VALUE_BYTES
    options = {"timeout_s": 5.0, "slow_s": 2.0}
    with closing(WebCache(f"{web.url}/b", "sealed", metrics=Metrics(), check=lambda *_: True, **options)) as inner:
        cache = SealedCache(inner, seal, check_plainly, Metrics())
        cache.put(block, plain)
        assert cache.get(block) == plain


@pytest.mark.parametrize("cipher", [AES_256_GCM, CHACHA20_POLY1305])
def test_a_cache_of_a_package_gets_sealed_blocks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: Metrics, cipher: str
) -> None:
    made: list[tuple[Recorder, CacheContext]] = []

    def make(spec: CacheSpec, context: CacheContext) -> BlockCache:
        made.append((Recorder(), context))
        return made[-1][0]

    monkeypatch.setattr(f"{__name__}.factory", make, raising=False)
    points = EntryPoints([EntryPoint("mine", f"{__name__}:factory", GROUP)])
    monkeypatch.setattr("cas3fs.caches.registry.entry_points", points.select)
    context = CacheContext(str(VOLUME), tmp_path, metrics)
    cache = make_caches(parse_caches(["mine:1"]).tiers, context, CacheSeals(seal_of(VOLUME, cipher)))
    assert cache is not None
    cache.put(*ONE)
    ((inner, seen),) = made
    ((name, value),) = inner.values.items()
    assert cache.get(ONE[0]) == ONE[1]
    assert name != ONE[0]
    assert ONE[1][:16] not in value
    assert seen.volume == "sealed"
    assert seen.check(name, value)
    inner.values[name] = value[::-1]
    assert cache.get(ONE[0]) is None
    assert metrics.snapshot()["cache.mine.rotten"] == 1


def test_servers_see_neither_the_volume_nor_a_block(
    tmp_path: Path, web: WebServer, real_memcached: MemcachedProcess, metrics: Metrics
) -> None:
    specs = [f"{real_memcached.spec}?timeout=5s&slow=2s", f"web+{web.url}/blocks?timeout=5s&slow=2s"]
    context = CacheContext(str(VOLUME), tmp_path / "disk", metrics)
    cache = make_caches(parse_caches(specs).tiers, context, CacheSeals(seal_of(VOLUME)))
    assert cache is not None
    with closing(cache):
        cache.put(*ONE)
        ((path, body),) = web.files.items()
        name = seal_of(VOLUME).name_of(ONE[0]).hex()
        assert path == f"/blocks/sealed/{name[:2]}/{name}"
        assert ONE[1][:16] not in body
        web.files[path] = body[::-1]
        assert cache.get(ONE[0]) == ONE[1]  # from memcached
    with closing(make_caches(parse_caches(specs[1:]).tiers, context, CacheSeals(seal_of(VOLUME))) or cache) as alone:
        assert alone.get(ONE[0]) is None
    assert not web.files
    assert metrics.snapshot()["cache.web.rotten"] == 1


def test_a_block_has_one_name_for_one_key() -> None:
    names = {SharedCacheSeal(bytes([number]) * 32, AES_256_GCM).name_of(ONE[0]) for number in range(5)}
    assert len(names) == 5
    assert seal_of(VOLUME).name_of(ONE[0]) == seal_of(VOLUME, CHACHA20_POLY1305).name_of(ONE[0])
