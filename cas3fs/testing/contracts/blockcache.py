# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of caches: `BlockCacheContract`; the test class of a cache adds a fixture `cache`.

The cache has to be empty, ready, large enough for some mebibytes, and unused by others. Class attributes say what
an implementation cannot do.
"""

import threading
from random import Random

import pytest
from blake3 import blake3

from cas3fs.caches.base import BlockCache
from cas3fs.values import BlockHash

Block = tuple[BlockHash, bytes]


def make_block(seed: int, length: int = 4096) -> Block:
    """A block of random bytes, the same for the same seed, with its hash."""
    plain = Random(seed).randbytes(length)
    return BlockHash(blake3(plain).digest()), plain


class BlockCacheContract:
    """The tests of the contract."""

    tells_size = True
    """Whether `size_bytes` is greater than 0 while the cache has blocks."""

    @pytest.mark.parametrize("length", [1, 4096, 32768, 32769, 300_000, 4 << 20])
    def test_what_was_put_is_given_back(self, cache: BlockCache, length: int) -> None:
        block, plain = make_block(1, length)
        cache.put(block, plain)
        assert cache.get(block) == plain
        assert cache.contains(block)

    @pytest.mark.parametrize(
        ("skip", "length"), [(0, 1), (0, 100_000), (32767, 2), (32768, 32768), (99_999, 1), (5, 65536)]
    )
    def test_any_part_can_be_read(self, cache: BlockCache, skip: int, length: int) -> None:
        block, plain = make_block(2, 100_000)
        cache.put(block, plain)
        part = cache.get_part(block, skip, length)
        assert part is not None
        assert bytes(part) == plain[skip : skip + length]

    def test_a_block_that_was_never_put_is_a_miss(self, cache: BlockCache) -> None:
        block, _ = make_block(3)
        assert cache.get(block) is None
        assert cache.get_part(block, 0, 10) is None
        assert not cache.contains(block)

    def test_an_evicted_block_is_a_miss(self, cache: BlockCache) -> None:
        block, plain = make_block(4)
        cache.put(block, plain)
        cache.evict(block)
        cache.evict(block)
        assert cache.get(block) is None
        assert not cache.contains(block)

    def test_a_mutable_buffer_is_copied(self, cache: BlockCache) -> None:
        block, plain = make_block(5)
        buffer = bytearray(plain)
        cache.put(block, memoryview(buffer))
        buffer[:] = bytes(len(buffer))
        assert cache.get(block) == plain

    def test_batch_methods_do_the_same_as_single_ones(self, cache: BlockCache) -> None:
        blocks: dict[BlockHash, bytes] = dict(make_block(seed, 100 + 60_000 * (seed % 3)) for seed in range(20))
        absent, _ = make_block(99)
        cache.put_many(dict(blocks))
        assert cache.get_many([*blocks, absent]) == blocks
        assert cache.contains_many([*blocks, absent]) == set(blocks)
        cache.evict_many(list(blocks)[:5])
        assert cache.contains_many(blocks) == set(list(blocks)[5:])
        assert cache.get_many([]) == {}
        assert cache.contains_many(iter(())) == set()

    def test_putting_again_changes_nothing(self, cache: BlockCache) -> None:
        block, plain = make_block(6, 50_000)
        cache.put(block, plain)
        size_bytes = cache.size_bytes
        cache.put(block, plain)
        assert cache.get(block) == plain
        assert cache.size_bytes == size_bytes

    def test_the_size_grows_with_puts_and_falls_with_evictions(self, cache: BlockCache) -> None:
        if not self.tells_size:
            assert cache.size_bytes == 0
            return
        block, plain = make_block(6, 50_000)
        assert cache.size_bytes == 0
        cache.put(block, plain)
        assert 50_000 <= cache.size_bytes < 150_000
        cache.evict(block)
        assert cache.size_bytes == 0

    def test_closing_twice_is_harmless_and_nothing_fails_afterwards(self, cache: BlockCache) -> None:
        cache.close()
        cache.close()
        block, plain = make_block(7)
        cache.put(block, plain)
        assert cache.get(block) in (None, plain)
        assert cache.contains_many([block]) <= {block}
        cache.evict(block)

    def test_many_threads_read_only_correct_bytes(self, cache: BlockCache) -> None:
        blocks = [make_block(seed, 5000) for seed in range(8)]
        wrong: list[object] = []
        start = threading.Barrier(8)

        def work(offset: int) -> None:
            start.wait()
            try:
                for step in range(60):
                    block, plain = blocks[(offset + step * 3) % len(blocks)]
                    cache.put(block, plain)
                    got = cache.get(block)
                    part = cache.get_part(block, 1000, 500)
                    if step % 7 == offset % 7:
                        cache.evict(block)
                    if got not in (None, plain) or (part is not None and bytes(part) != plain[1000:1500]):
                        wrong.append(block)
            except Exception as error:  # noqa: BLE001  (nothing may come out of a cache)
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
