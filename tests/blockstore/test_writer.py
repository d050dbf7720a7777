# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing blocks into packs: in order, once, within a memory limit, with errors for every waiting caller."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from cas3fs.blocks.packs import read_contents
from cas3fs.blockstore import BlockReader, BlockWriter
from cas3fs.blockstore.pack_store import pack_key
from cas3fs.errors import ObjectExists, StoreError, StoreFull
from cas3fs.metrics import Metrics
from cas3fs.values import BlockLocation
from tests.blockstore.conftest import WAIT_S, StoredRecord, TestStore, make_block

OpenWriter = Callable[..., BlockWriter]


def test_stored_blocks_can_be_read(
    open_writer: OpenWriter, open_reader: Callable[..., BlockReader], record: StoredRecord
) -> None:
    blocks = [make_block(seed, length) for seed, length in enumerate([1, 4096, 100_000, 300_000])]
    with open_writer().session() as session:
        futures = [session.add(block, memoryview(bytearray(plain))) for block, plain in blocks]
    for future in futures:
        future.result(WAIT_S)
    reader = open_reader()
    (pack,) = record.packs
    read = [bytes(reader.read(BlockLocation(b.hash, pack.name, *b[1:]), 0, b.plain_length)) for b in pack.blocks]
    assert read == [plain for _, plain in blocks]


def test_a_future_resolves_only_after_its_pack_is_recorded(
    open_writer: OpenWriter, record: StoredRecord, store: TestStore
) -> None:
    store.puts.block()
    writer = open_writer()
    block, plain = make_block(1)
    with writer.session() as session:
        future = session.add(block, plain)
    store.puts.wait_for(1)
    assert not future.done()
    assert writer.in_flight(block) is future
    recorded: list[bool] = []
    future.add_done_callback(lambda _: recorded.append(record.hashes() == [block] and writer.in_flight(block) is None))
    store.puts.unblock()
    future.result(WAIT_S)
    assert recorded == [True]


def test_a_pack_is_named_by_epoch_and_hash_and_lists_its_blocks(
    open_writer: OpenWriter, record: StoredRecord, store: TestStore
) -> None:
    with open_writer().session() as session:
        session.add(*make_block(1)).add_done_callback(lambda _: None)
        future = session.add(*make_block(2))
    future.result(WAIT_S)
    (pack,) = record.packs
    body = store.get(pack_key(pack.name))
    assert pack.name.startswith("00000007/")
    assert pack.size_bytes == len(body)
    assert read_contents(body, len(body)) == tuple(pack.blocks)


def test_blocks_lie_in_the_order_they_were_added(open_writer: OpenWriter, record: StoredRecord) -> None:
    blocks = [make_block(seed, 200_000 if seed % 3 == 0 else 500) for seed in range(60)]
    with open_writer(pack_size_bytes=1 << 28, encoders=4).session() as session:
        futures = [session.add(*block) for block in blocks]
    for future in futures:
        future.result(WAIT_S)
    assert record.hashes() == [block for block, _ in blocks]


def test_a_full_pack_is_uploaded_without_a_seal(open_writer: OpenWriter, record: StoredRecord) -> None:
    """No pack exceeds the target size."""
    session = open_writer(pack_size_bytes=100_000).session()
    futures = [session.add(*make_block(seed, 30_000)) for seed in range(7)]
    for future in futures[:6]:
        future.result(WAIT_S)
    assert not futures[6].done()
    session.seal()
    futures[6].result(WAIT_S)
    assert sorted(len(pack.blocks) for pack in record.packs) == [1, 3, 3]
    assert all(pack.size_bytes <= 100_000 for pack in record.packs)


def test_a_block_at_the_target_size_gets_its_own_pack(open_writer: OpenWriter, record: StoredRecord) -> None:
    """The open pack stays open."""
    session = open_writer(pack_size_bytes=50_000).session()
    small = session.add(*make_block(1, 1000))
    session.add(*make_block(2, 60_000)).result(WAIT_S)
    assert not small.done()
    other = session.add(*make_block(3, 1000))
    session.seal()
    other.result(WAIT_S)
    assert [len(pack.blocks) for pack in record.packs] == [1, 2]


def test_each_session_fills_its_own_packs(open_writer: OpenWriter, record: StoredRecord) -> None:
    writer = open_writer()
    with writer.session() as one, writer.session() as other:
        futures = [session.add(*make_block(seed)) for seed, session in enumerate([one, other, one, other])]
    for future in futures:
        future.result(WAIT_S)
    assert sorted(sorted(line.hash for line in pack.blocks) for pack in record.packs) == sorted(
        sorted(make_block(seed)[0] for seed in seeds) for seeds in [(0, 2), (1, 3)]
    )


@pytest.mark.promise("a-known-block-is-checked-again")
def test_a_block_in_flight_is_not_stored_twice(open_writer: OpenWriter, record: StoredRecord, store: TestStore) -> None:
    store.puts.block()
    writer = open_writer()
    block, plain = make_block(1, 50_000)
    with writer.session() as one, writer.session() as other:
        first = one.add(block, plain)
        assert other.add(block, plain) is first
        assert writer.in_flight(block) is first
    store.puts.unblock()
    first.result(WAIT_S)
    assert record.hashes() == [block]


def test_concurrent_adds_of_a_block_store_it_once(open_writer: OpenWriter, record: StoredRecord) -> None:
    writer = open_writer()
    blocks = [make_block(seed, 3000) for seed in range(40)]
    held = threading.Barrier(6)

    def work(_: int) -> None:
        with writer.session() as session:
            held.wait(WAIT_S)
            futures = [session.add(*block) for block in blocks]
            held.wait(WAIT_S)
        for future in futures:
            future.result(WAIT_S)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert sorted(record.hashes()) == sorted(block for block, _ in blocks)


@pytest.mark.promise("a-known-block-is-checked-again")
def test_blocks_of_a_failed_upload_fail_and_can_be_added_again(
    open_writer: OpenWriter, record: StoredRecord, store: TestStore, metrics: Metrics
) -> None:
    writer = open_writer()
    blocks = [make_block(seed) for seed in range(3)]
    store.put_error = StoreFull("no space in the store")
    store.puts.block()
    with writer.session() as session:
        futures = [session.add(*block) for block in blocks]
    sharing = writer.in_flight(blocks[1][0])
    store.puts.unblock()
    assert [future.exception(WAIT_S) for future in futures] == [store.put_error] * 3
    assert sharing is futures[1]
    assert [writer.in_flight(block) for block, _ in blocks] == [None] * 3
    assert metrics.snapshot()["writer.under_way_bytes"] == 0
    store.put_error = None
    with writer.session() as session:
        again = session.add(*blocks[1])
    again.result(WAIT_S)
    assert record.hashes() == [blocks[1][0]]


def test_blocks_of_a_pack_that_cannot_be_recorded_fail(open_writer: OpenWriter, record: StoredRecord) -> None:
    record.error = RuntimeError("the index is full")
    with open_writer().session() as session:
        future = session.add(*make_block(1))
    assert future.exception(WAIT_S) is record.error


def test_a_pack_whose_name_exists_counts_as_stored(
    open_writer: OpenWriter, record: StoredRecord, store: TestStore
) -> None:
    store.put_error = ObjectExists("the name is taken")
    with open_writer().session() as session:
        future = session.add(*make_block(1))
    future.result(WAIT_S)
    assert len(record.packs) == 1


def test_add_waits_while_the_budget_is_used_up(open_writer: OpenWriter, store: TestStore) -> None:
    store.puts.block()
    writer = open_writer(pack_size_bytes=100_000, uploads=2)
    added = [0]
    done = threading.Event()

    def work() -> None:
        with writer.session() as session:
            for seed in range(40):
                session.add(*make_block(seed, 50_000))
                added[0] += 1
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    store.puts.wait_for(2)
    assert not done.wait(0.2)
    assert added[0] <= 6, "what three packs hold, in packs that are put, wait or are open: of 40"
    store.puts.unblock()
    assert done.wait(WAIT_S)
    thread.join()
    assert added[0] == 40


def test_sessions_with_half_full_packs_do_not_block_each_other(open_writer: OpenWriter, record: StoredRecord) -> None:
    writer = open_writer(pack_size_bytes=100_000, uploads=1)
    sessions = [writer.session() for _ in range(10)]
    futures = [session.add(*make_block(seed, 90_000)) for seed, session in enumerate(sessions)]
    for session in sessions:
        session.seal()
    for future in futures:
        future.result(WAIT_S)
    assert len(record.packs) == 10


def test_a_block_larger_than_the_budget_is_stored(open_writer: OpenWriter, record: StoredRecord) -> None:
    with open_writer(pack_size_bytes=10_000, uploads=1).session() as session:
        futures = [session.add(*make_block(seed, 200_000)) for seed in range(3)]
    for future in futures:
        future.result(WAIT_S)
    assert len(record.packs) == 3


def test_an_exception_in_a_session_still_stores_its_blocks(open_writer: OpenWriter, record: StoredRecord) -> None:
    with pytest.raises(KeyError), open_writer().session() as session:
        future = session.add(*make_block(1))
        raise KeyError
    future.result(WAIT_S)
    assert len(record.packs) == 1


def test_close_completes_running_uploads_and_fails_the_rest(
    open_writer: OpenWriter, record: StoredRecord, store: TestStore
) -> None:
    store.puts.block()
    writer = open_writer(uploads=1)
    first, second, unsealed = writer.session(), writer.session(), writer.session()
    running = first.add(*make_block(1))
    first.seal()
    store.puts.wait_for(1)
    queued = second.add(*make_block(2))
    second.seal()
    left = unsealed.add(*make_block(3, 100_000))
    closing = threading.Thread(target=writer.close)
    closing.start()
    assert isinstance(queued.exception(WAIT_S), StoreError)
    store.puts.unblock()
    closing.join()
    running.result(WAIT_S)
    assert isinstance(left.exception(WAIT_S), StoreError)
    assert record.hashes() == [make_block(1)[0]]
    with pytest.raises(StoreError, match="closed"):
        unsealed.add(*make_block(4))


def test_close_fails_an_add_that_waits_for_the_budget(open_writer: OpenWriter, store: TestStore) -> None:
    store.puts.block()
    writer = open_writer(pack_size_bytes=10_000, uploads=1)
    session = writer.session()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lambda: [session.add(*make_block(seed, 9000)) for seed in range(20)])
        store.puts.wait_for(1)
        closing = pool.submit(writer.close)
        assert isinstance(waiting.exception(WAIT_S), StoreError)
        store.puts.unblock()
        closing.result(WAIT_S)


def test_invalid_blocks_are_refused(open_writer: OpenWriter) -> None:
    writer = open_writer()
    block, plain = make_block(1)
    with pytest.raises(ValueError, match="not a block"):
        writer.session().add(block, bytes(17 * 1024 * 1024))
    with pytest.raises(ValueError, match="not a block"):
        writer.session().add(block[:31], plain)  # type: ignore[arg-type]
    assert writer.in_flight(block) is None


def test_stored_blocks_and_packs_are_counted(open_writer: OpenWriter, record: StoredRecord, metrics: Metrics) -> None:
    with open_writer().session() as session:
        future = session.add(*make_block(1, 1000))
        session.add(*make_block(2, 500))
    future.result(WAIT_S)
    counted = metrics.snapshot()
    assert (counted["writer.packs"], counted["writer.blocks"], counted["writer.plain_bytes"]) == (1, 2, 1500)
    assert counted["writer.stored_bytes"] == record.packs[0].size_bytes


@pytest.mark.promise("gc-decides-again-when-it-deletes")
def test_a_stored_pack_is_listed_until_it_is_recorded(
    open_writer: OpenWriter, store: TestStore, record: StoredRecord
) -> None:
    writer = open_writer()
    store.puts.block()
    with writer.session() as session:
        future = session.add(*make_block(1))
    store.puts.wait_for(1)
    (name,) = writer.unrecorded
    store.puts.unblock()
    future.result(WAIT_S)
    assert [pack.name for pack in record.packs] == [name]
    assert writer.unrecorded == frozenset()


@pytest.mark.promise("background-work-survives-exceptions")
def test_a_large_block_is_stored_if_no_encoder_thread_can_start(
    open_writer: OpenWriter, record: StoredRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    block, plain = make_block(1, 300_000)
    with open_writer().session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            future = session.add(block, plain)
        future_of_small = session.add(*make_block(2, 10))
    future.result(WAIT_S)
    future_of_small.result(WAIT_S)
    assert record.hashes() == [block, make_block(2, 10)[0]]
