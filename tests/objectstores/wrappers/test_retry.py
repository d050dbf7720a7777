# SPDX-License-Identifier: GPL-3.0-or-later
"""Retries: of which errors, how often and for how long, and of puts that may have been applied."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO

import pytest

from cas3fs.errors import (
    AccessDenied,
    DeleteFailed,
    ObjectExists,
    ObjectMissing,
    StoreBusy,
    StoreRefused,
    StoreUnreachable,
    TransientStoreError,
    TruncatedBody,
)
from cas3fs.metrics import Metrics
from cas3fs.objectstores import Body, ObjectStore
from cas3fs.objectstores.wrappers import RetryingStore, RetryPolicy
from tests.objectstores.wrappers.scripted_store import ScriptedStore

MINUTE = RetryPolicy(deadline_s=60)
CONTENT = bytes(range(256)) * 70_000  # more than one piece of a comparison


class Time:
    """A clock that advances when the store waits."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waited_s: list[float] = []

    def clock(self) -> float:
        return self.now_s

    def wait(self, delay_s: float) -> bool:
        self.now_s += delay_s
        self.waited_s.append(delay_s)
        return False


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def retrying(time: Time, metrics: Metrics) -> Callable[..., RetryingStore]:
    def wrap(inner: ObjectStore, policy: RetryPolicy = MINUTE, jitter: float = 1.0) -> RetryingStore:
        return RetryingStore(inner, policy, metrics, clock=time.clock, wait=time.wait, jitter=lambda: jitter)

    return wrap


Wrap = Callable[..., RetryingStore]

READS: list[Callable[[ObjectStore], object]] = [
    lambda store: store.get("a"),
    lambda store: store.get_range("a", 1, 2),
    lambda store: store.get_pieces("a", 1, (2, 1), bytes),
    lambda store: store.head("a"),
    lambda store: store.list_page(),
    lambda store: store.delete_many(["a"]),
]


@pytest.mark.parametrize("request_", READS)
@pytest.mark.parametrize("failure", [StoreBusy("503"), StoreUnreachable("reset"), TruncatedBody("cut")])
def test_transient_errors_are_retried(
    retrying: Wrap, metrics: Metrics, request_: Callable[[ObjectStore], object], failure: Exception
) -> None:
    inner = ScriptedStore(None, failure, failure)
    inner.put_if_absent("a", b"bytes")
    request_(retrying(inner))
    assert len(inner.requests) == 4
    assert metrics.snapshot()["store.retries"] == 2


def test_a_retry_asks_only_for_missing_pieces(retrying: Wrap) -> None:
    asked: list[tuple[int, tuple[int, ...]]] = []

    class Breaking(ScriptedStore):
        """Fails after two pieces of each response."""

        def get_pieces(
            self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None], *, may_end: bool = False
        ) -> None:
            asked.append((start, tuple(lengths)))
            super().get_pieces(key, start, lengths[:2], take)
            if len(lengths) > 2:
                raise TruncatedBody("cut")

    inner = Breaking()
    inner.put_if_absent("a", b"0123456789")
    pieces: list[bytes] = []
    retrying(inner).get_pieces("a", 1, (1, 2, 3, 1, 1), pieces.append)
    assert pieces == [b"1", b"23", b"456", b"7", b"8"]
    assert asked == [(1, (1, 2, 3, 1, 1)), (4, (3, 1, 1)), (8, (1,))]


@pytest.mark.parametrize(
    "failure", [AccessDenied("403"), StoreRefused("400"), ObjectMissing("404"), ObjectExists("412")]
)
def test_other_errors_are_not_retried(retrying: Wrap, time: Time, failure: Exception) -> None:
    for request_ in (lambda store: store.get("a"), lambda store: store.put_if_absent("a", b"")):
        inner = ScriptedStore(failure)
        with pytest.raises(type(failure)):
            request_(retrying(inner))
        assert len(inner.requests) == 1
    assert time.waited_s == []


def test_delays_double_up_to_a_limit(retrying: Wrap, time: Time) -> None:
    inner = ScriptedStore(*[StoreBusy("503")] * 8)
    with pytest.raises(ObjectMissing):
        retrying(inner, RetryPolicy(deadline_s=60, base_delay_s=0.5, max_delay_s=10)).get("a")
    assert time.waited_s == [0.5, 1, 2, 4, 8, 10, 10, 10]


def test_a_delay_is_a_random_part_of_its_limit(retrying: Wrap, time: Time) -> None:
    inner = ScriptedStore(*[StoreBusy("503")] * 3)
    with pytest.raises(ObjectMissing):
        retrying(inner, RetryPolicy(base_delay_s=1), jitter=0.25).get("a")
    assert time.waited_s == [0.25, 0.5, 1]


def test_after_the_deadline_the_last_error_shows_the_number_of_attempts(
    retrying: Wrap, time: Time, metrics: Metrics
) -> None:
    inner = ScriptedStore(*[StoreBusy("the server answers 503")] * 99)
    with pytest.raises(StoreBusy, match=r"^the server answers 503 \(gave up after 6 attempts in 31 s\)$"):
        retrying(inner, RetryPolicy(deadline_s=60, base_delay_s=1, max_delay_s=100)).get("a")
    assert time.now_s <= 60
    assert metrics.snapshot()["store.given_up"] == 1


@pytest.mark.promise("commands-wait-for-signs-of-life")
def test_a_store_that_never_responded_is_given_up_sooner(retrying: Wrap) -> None:
    policy = RetryPolicy(deadline_s=60, base_delay_s=1, max_delay_s=100, first_response_s=10)
    with pytest.raises(StoreUnreachable, match="gave up after 4 attempts in 7 s"):
        retrying(ScriptedStore(*[StoreUnreachable("reset")] * 99), policy).get("a")
    for answer in (None, ObjectMissing("404"), AccessDenied("403")):
        inner = ScriptedStore()
        inner.put_if_absent("a", b"")
        inner.script = [answer, *[StoreUnreachable("reset")] * 99]
        store = retrying(inner, policy)
        with suppress(ObjectMissing, AccessDenied):
            store.get("a")
        with pytest.raises(StoreUnreachable, match="gave up after 6 attempts in 31 s"):
            store.get("a")


@pytest.mark.promise("time-limits-are-for-standstill")
def test_the_time_of_transfers_does_not_count(retrying: Wrap, time: Time) -> None:
    """Over a slow line a large object is tried as often as a small one."""
    inner = ScriptedStore(*[broken_after(300.0) for _ in range(99)])
    inner.on_request = lambda: time.wait(300)
    with pytest.raises(StoreUnreachable, match=r"gave up after 6 attempts in 31 s"):
        retrying(inner, RetryPolicy(deadline_s=60, base_delay_s=1, max_delay_s=100)).put_if_absent("a", b"bytes")
    inner.script = [broken_after(300.0), None]
    retrying(inner).put_if_absent("a", b"bytes")


def broken_after(transfer_s: float) -> StoreUnreachable:
    error = StoreUnreachable("reset")
    error.transfer_s = transfer_s
    return error


def test_only_repeated_failures_are_logged_as_warnings(retrying: Wrap, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for failures, lines in ((2, 0), (4, 2)):
        caplog.clear()
        with pytest.raises(ObjectMissing):
            retrying(ScriptedStore(*[StoreBusy("503")] * failures)).get("a")
        assert len(caplog.records) == lines


def test_a_listing_continues_after_a_failed_page_without_gap_or_repeat(retrying: Wrap) -> None:
    inner = ScriptedStore(page_size=2)
    for key in "abcde":
        inner.put_if_absent(key, b"")
    inner.script = [None, StoreBusy("503"), TruncatedBody("cut"), None, StoreBusy("503")]
    assert [info.key for info in retrying(inner).list()] == list("abcde")


@pytest.mark.parametrize(
    "make", [lambda: CONTENT, lambda: memoryview(CONTENT), lambda: BytesIO(CONTENT)], ids=["bytes", "view", "file"]
)
def test_a_put_that_was_applied_before_it_failed_succeeds(retrying: Wrap, make: Callable[[], Body]) -> None:
    inner = ScriptedStore(StoreUnreachable("reset"))
    inner.applied_before_failing = True
    retrying(inner).put_if_absent("a", make())
    assert inner.get("a") == CONTENT


@pytest.mark.parametrize("other", [b"short", CONTENT[:-1] + b"\0", b"\1" + CONTENT[1:]], ids=["size", "end", "start"])
def test_a_failed_put_that_another_writer_won_raises(retrying: Wrap, other: bytes) -> None:
    for body in (CONTENT, BytesIO(CONTENT)):
        inner = ScriptedStore()
        inner.put_if_absent("a", other)
        inner.script = [StoreUnreachable("reset")]
        with pytest.raises(ObjectExists):
            retrying(inner).put_if_absent("a", body)
        assert inner.get("a") == other


def test_a_put_whose_first_attempt_finds_an_object_does_not_read_it(retrying: Wrap) -> None:
    inner = ScriptedStore()
    inner.put_if_absent("a", CONTENT)
    inner.requests.clear()
    with pytest.raises(ObjectExists):
        retrying(inner).put_if_absent("a", CONTENT)
    assert inner.requests == ["put"]


def test_the_comparison_is_itself_retried(retrying: Wrap) -> None:
    inner = ScriptedStore(StoreUnreachable("reset"))
    inner.applied_before_failing = True
    failures: list[Exception | None] = [None, StoreBusy("503"), None, None, StoreBusy("503")]
    inner.on_request = lambda: inner.script.extend(failures) if len(inner.requests) == 1 else None
    retrying(inner).put_if_absent("a", CONTENT)
    assert inner.requests.count("put") == 4
    assert inner.get("a") == CONTENT


@pytest.mark.promise("only-real-answers-count")
def test_an_object_that_exists_and_then_does_not_is_retried(retrying: Wrap) -> None:
    """A store that contradicts itself is tried again, as ObjectExists would mean that there is another writer."""
    inner = ScriptedStore(StoreUnreachable("reset"))
    inner.applied_before_failing = True
    answers: list[Exception | None] = [None, ObjectMissing("404")]
    inner.on_request = lambda: inner.script.extend(answers) if len(inner.requests) == 1 else None
    retrying(inner).put_if_absent("a", CONTENT)
    assert inner.requests.count("put") == 3
    assert inner.get("a") == CONTENT


def test_a_file_is_sent_whole_at_every_attempt_and_from_its_position(retrying: Wrap) -> None:
    file = BytesIO(b"header" + CONTENT)
    file.seek(6)
    inner = ScriptedStore(StoreBusy("503"), StoreBusy("503"))
    inner.on_request = lambda: file.seek(99) if inner.script else None  # as a client that broke off leaves it
    retrying(inner).put_if_absent("a", file)
    assert inner.get("a") == CONTENT


def test_a_refused_batch_does_not_keep_the_others_from_being_deleted(retrying: Wrap) -> None:
    inner = ScriptedStore()
    keys = [f"{number:04}" for number in range(3000)]
    for key in keys:
        inner.put_if_absent(key, b"")
    inner.script = [DeleteFailed("refused 1", ("0001",)), None, DeleteFailed("refused 2", ("2001",))]
    with pytest.raises(DeleteFailed, match="refused 1") as caught:
        retrying(inner).delete_many(keys)
    assert caught.value.keys == ("0001", "2001")
    assert [info.key for info in inner.list()] == keys[:1000] + keys[2000:]


def test_closing_ends_a_delay_with_the_error_that_caused_it(metrics: Metrics) -> None:
    failed = threading.Event()
    inner = ScriptedStore(*[StoreBusy("503")] * 99)
    inner.on_request = failed.set
    store = RetryingStore(inner, RetryPolicy(deadline_s=3600, base_delay_s=3000, max_delay_s=3000), metrics)
    caught: list[BaseException] = []

    def get() -> None:
        try:
            store.get("a")
        except TransientStoreError as error:
            caught.append(error)

    thread = threading.Thread(target=get)
    thread.start()
    assert failed.wait(10)
    store.close()
    thread.join(10)
    assert not thread.is_alive()
    assert [str(error) for error in caught] == ["503"]
    assert inner.closed == 1


@pytest.mark.promise("background-work-survives-exceptions")
def test_the_last_error_is_noted_once_a_store_has_failed_three_times(retrying: Wrap, metrics: Metrics) -> None:
    """A single failure is not recorded as an error; an outage is, also while it is retried."""
    retrying(ScriptedStore(*[StoreBusy("now and then")] * 2)).list_page()
    assert metrics.last_errors() == {}
    retrying(ScriptedStore(*[StoreUnreachable("nobody there")] * 5)).list_page()
    noted = metrics.last_errors()["the store"]
    assert (noted.error, noted.times) == ("nobody there", 3)
