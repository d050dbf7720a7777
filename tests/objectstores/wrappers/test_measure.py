# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics of requests."""

import pytest

from cas3fs.errors import ObjectExists, ObjectMissing, StoreBusy
from cas3fs.metrics import Metrics
from cas3fs.objectstores.wrappers import MeasuredStore, RetryingStore, RetryPolicy
from tests.objectstores.wrappers.scripted_store import ScriptedStore


def test_requests_bytes_and_failures_are_counted_by_kind() -> None:
    metrics = Metrics()
    store = MeasuredStore(ScriptedStore(), metrics)
    store.put_if_absent("a", b"0123456789")
    store.get("a")
    store.get_range("a", 2, 3)
    store.head("a")
    list(store.list())
    store.delete_many(["a"])
    counted = metrics.snapshot()
    names = ("put", "get", "head", "list", "delete")
    assert [counted[f"store.{name}.count"] for name in names] == [1, 2, 1, 1, 1]
    assert [counted[f"store.{name}.bytes"] for name in names] == [10, 13, 0, 0, 0]
    assert [counted[f"store.{name}.errors"] for name in names] == [0, 0, 0, 0, 0]
    assert counted["store.requests"] == 6


def test_a_missing_object_is_not_a_failure_and_failures_count_no_bytes() -> None:
    metrics = Metrics()
    inner = ScriptedStore(ObjectExists("412"), StoreBusy("503"))
    store = MeasuredStore(inner, metrics)
    for expected in (ObjectExists, StoreBusy):
        with pytest.raises(expected):
            store.put_if_absent("a", b"0123456789")
    with pytest.raises(ObjectMissing):
        store.get("a")
    counted = metrics.snapshot()
    assert (counted["store.put.count"], counted["store.put.errors"], counted["store.put.bytes"]) == (2, 1, 0)
    assert (counted["store.get.count"], counted["store.get.errors"]) == (1, 0)


def test_every_attempt_of_a_retried_request_is_counted() -> None:
    metrics = Metrics()
    inner = ScriptedStore(StoreBusy("503"), StoreBusy("503"))
    store = RetryingStore(MeasuredStore(inner, metrics), RetryPolicy(), metrics, wait=lambda _: False)
    with pytest.raises(ObjectMissing):
        store.get("a")
    counted = metrics.snapshot()
    assert (counted["store.get.count"], counted["store.get.errors"], counted["store.retries"]) == (3, 2, 2)
