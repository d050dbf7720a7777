# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe for create-if-absent."""

from collections.abc import Iterable, Mapping

import pytest

from cas3fs.errors import AccessDenied, DeleteFailed, ObjectExists, StoreUnreachable
from cas3fs.metrics import Metrics
from cas3fs.objectstores import Body, RetryPolicy, probe_create_if_absent
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.objectstores.wrappers import RetryingStore
from tests.objectstores.wrappers.scripted_store import ScriptedStore


class Overwriting(MemoryStore):
    """Ignores the condition, and denies that if `lies`."""

    lies = False

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        taken = any(info.key == key for info in self.list())
        self.delete_many([key])
        super().put_if_absent(key, body, metadata)
        if taken and self.lies:
            raise ObjectExists(key)


@pytest.mark.parametrize("lies", [False, True])
def test_the_probe_detects_a_store_that_overwrites(lies: bool) -> None:
    store = Overwriting()
    store.lies = lies
    assert not probe_create_if_absent(store)
    assert list(store.list()) == []


def test_a_retried_put_does_not_mislead_the_probe() -> None:
    inner = ScriptedStore(StoreUnreachable("reset"), None, None, None, StoreUnreachable("reset"))
    inner.applied_before_failing = True
    store = RetryingStore(inner, RetryPolicy(), Metrics(), wait=lambda _: False)
    assert probe_create_if_absent(store)


@pytest.mark.parametrize("refusal", [AccessDenied("403"), DeleteFailed("refused", ("x",))])
def test_the_object_of_the_probe_is_left_where_deleting_is_refused(
    refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Guarded(MemoryStore):
        def delete_many(self, keys: Iterable[str]) -> None:
            raise refusal

    store = Guarded("guarded")
    assert probe_create_if_absent(store)
    assert [info.key.partition("/")[0] for info in store.list()] == ["probe"]
    assert "is left in memory://guarded" in caplog.text
