# SPDX-License-Identifier: GPL-3.0-or-later
"""A store that can be blocked and made to fail, and that records its requests; packs to read from it."""

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from cas3fs.blocks.codec import Compression, encode
from cas3fs.blocks.packs import PackBuilder
from cas3fs.blockstore import BlockReader, BlockWriter
from cas3fs.blockstore.pack_store import pack_key, pack_name
from cas3fs.caches import BlockCache, MemoryCache
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import Body, ListPage, ObjectInfo, ObjectStore
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.values import BlockHash, BlockLocation, StoredPack
from tests.contracts.blocks import hash_block

WAIT_S = 30
Block = tuple[BlockHash, bytes]


def make_block(seed: int, length: int = 4096) -> Block:
    """A block of random bytes, which do not compress."""
    plain = random.Random(seed).randbytes(length)
    return hash_block(plain), plain


class Blocker:
    """Blocks callers of `pass_through` while closed; `arrived` counts all callers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self.arrived = 0

    def block(self) -> None:
        with self._changed:
            self._open = False

    def unblock(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def pass_through(self) -> None:
        with self._changed:
            self.arrived += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._open, WAIT_S)

    def wait_for(self, arrived: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.arrived >= arrived, WAIT_S), f"{self.arrived} arrived"


class TestStore(ObjectStore):
    """A `MemoryStore` with a blocker before puts and one before gets, errors on demand, and a record of requests."""

    __test__ = False

    def __init__(self) -> None:
        self._inner = MemoryStore()
        self.url = self._inner.url
        self.puts, self.gets = Blocker(), Blocker()
        self.put_error: Exception | None = None
        self.get_error: Exception | None = None
        self.requests: list[tuple[str, int, int]] = []
        """Key, start and length of each get; start is -1 for a whole object."""

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        self.puts.pass_through()
        if self.put_error is not None:
            raise self.put_error
        self._inner.put_if_absent(key, body, metadata)

    def get(self, key: str) -> bytes:
        self._record(key, -1, -1)
        return self._inner.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._record(key, start, length)
        return self._inner.get_range(key, start, length)

    def _record(self, key: str, start: int, length: int) -> None:
        self.requests.append((key, start, length))
        self.gets.pass_through()
        if self.get_error is not None:
            raise self.get_error

    def head(self, key: str) -> ObjectInfo:
        return self._inner.head(key)

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        return self._inner.list_page(prefix, start_after)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._inner.delete_many(keys)

    def close(self) -> None:
        self._inner.close()

    def replace(self, key: str, body: bytes) -> None:
        """Damage an object."""
        self._inner.delete_many([key])
        self._inner.put_if_absent(key, body)


@pytest.fixture
def store() -> Iterator[TestStore]:
    store = TestStore()
    yield store
    store.puts.unblock()
    store.gets.unblock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def put_pack(store: TestStore) -> Callable[[Iterable[Block]], list[BlockLocation]]:
    """Stores a pack of the given blocks and returns their locations."""

    def put(blocks: Iterable[Block]) -> list[BlockLocation]:
        builder = PackBuilder()
        for block, plain in blocks:
            builder.add(block, encode(plain, Compression.parse("zstd:1")), len(plain))
        image = builder.finish()
        name = pack_name(1, image.name)
        store._inner.put_if_absent(pack_key(name), image.body)
        return [
            BlockLocation(line.hash, name, line.offset, line.stored_length, line.plain_length) for line in image.blocks
        ]

    return put


@pytest.fixture
def open_reader(store: TestStore, metrics: Metrics) -> Iterator[Callable[..., BlockReader]]:
    opened: list[BlockReader] = []

    def open_it(memory_bytes: int = 32 << 20, cache: BlockCache | None = None, **options: object) -> BlockReader:
        reader = BlockReader(store, MemoryCache(memory_bytes), cache, metrics=metrics, **options)  # type: ignore[arg-type]
        opened.append(reader)
        return reader

    yield open_it
    store.gets.unblock()
    for reader in opened:
        reader.close()


class StoredRecord:
    """Records the calls of `on_stored`."""

    def __init__(self) -> None:
        self.packs: list[StoredPack] = []
        self.error: Exception | None = None
        self._lock = threading.Lock()

    def __call__(self, pack: StoredPack) -> None:
        if self.error is not None:
            raise self.error
        with self._lock:
            self.packs.append(pack)

    def hashes(self) -> list[BlockHash]:
        return [line.hash for pack in self.packs for line in pack.blocks]


@pytest.fixture
def record() -> StoredRecord:
    return StoredRecord()


@pytest.fixture
def open_writer(store: TestStore, metrics: Metrics, record: StoredRecord) -> Iterator[Callable[..., BlockWriter]]:
    opened: list[BlockWriter] = []

    def open_it(pack_size_bytes: int = 1 << 20, compression: str = "zstd:1", **options: int) -> BlockWriter:
        writer = BlockWriter(
            store,
            epoch=7,
            pack_size_bytes=pack_size_bytes,
            compression=Compression.parse(compression),
            on_stored=record,
            metrics=metrics,
            **options,
        )
        opened.append(writer)
        return writer

    yield open_it
    store.puts.unblock()
    for writer in opened:
        writer.close()


@pytest.fixture
def cache_directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"
