# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics of requests: how many, their bytes, seconds and failures, by kind of request.

The metrics are ``store.put`` (a timer: count, seconds, longest), ``store.put.bytes``, ``store.put.errors``, the same
for get, head, list and delete, and ``store.requests`` for all. A missing object, or one that exists already, is a
result and not a failure.
"""

from collections.abc import Callable

from cas3fs.errors import ObjectExists, ObjectMissing
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ObjectStore
from cas3fs.objectstores.wrappers.wrapper import RequestKind, Result, StoreWrapper


class MeasuredStore(StoreWrapper):
    """Counts every request in `metrics`."""

    def __init__(self, inner: ObjectStore, metrics: Metrics) -> None:
        super().__init__(inner)
        self._requests = metrics.counter("store.requests")
        self._timers = {kind: metrics.timer(f"store.{kind.value}") for kind in RequestKind}
        self._bytes = {kind: metrics.counter(f"store.{kind.value}.bytes") for kind in RequestKind}
        self._errors = {kind: metrics.counter(f"store.{kind.value}.errors") for kind in RequestKind}

    def around(self, kind: RequestKind, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        self._requests.add()
        try:
            with self._timers[kind]:
                result = request()
        except (ObjectExists, ObjectMissing):
            raise
        except BaseException:
            self._errors[kind].add()
            raise
        self._bytes[kind].add(len(result) if isinstance(result, bytes) else size_bytes or 0)
        return result
