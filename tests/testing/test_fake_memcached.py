# SPDX-License-Identifier: GPL-3.0-or-later
"""The fake memcached: the same contract as the real program, the methods of the real client, and its faults."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheServerError, MemcacheUnexpectedCloseError

from cas3fs.testing.contracts.memcached import MemcachedContract
from cas3fs.testing.fake_memcached import FakeMemcached, FakeMemcachedServer
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.servers import MemcachedProcess, memcached


class TestTheFake(MemcachedContract):
    @pytest.fixture
    def client(self) -> FakeMemcached:
        return FakeMemcached(FakeMemcachedServer(limit_bytes=16 << 20), default_noreply=False)

    @pytest.fixture
    def twin(self, client: FakeMemcached) -> Callable[[], FakeMemcached]:
        return client.twin


class TestDebiansMemcached(MemcachedContract):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> Iterator[MemcachedProcess]:
        with memcached(16) as server:
            yield server

    @pytest.fixture
    def twin(self, server: MemcachedProcess) -> Callable[[], Client]:
        return lambda: Client(server.address, default_noreply=False, timeout=10)

    @pytest.fixture
    def client(self, twin: Callable[[], Client]) -> Iterator[Client]:
        with closing(twin()) as client:
            client.flush_all()
            yield client


def test_the_fake_has_every_method_of_the_client_with_its_signature() -> None:
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(FakeMemcached, name)) == inspect.signature(method), name
    own = list(inspect.signature(FakeMemcached.__init__).parameters)
    assert own[:2] == list(inspect.signature(Client.__init__).parameters)[:2]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.RESET, ConnectionResetError),
        (FaultKind.TRUNCATED, MemcacheUnexpectedCloseError),
        (FaultKind.UNAVAILABLE, MemcacheServerError),
        (FaultKind.THROTTLED, MemcacheServerError),
    ],
)
def test_a_fault_raises_what_the_real_client_raises(kind: FaultKind, error: type[Exception]) -> None:
    client = FakeMemcached(default_noreply=False)
    client.set(b"a", b"x" * 100)
    with client.faults.on(kind, operations=["get"], times=1), pytest.raises(error):
        client.get(b"a")
    assert client.get(b"a") == b"x" * 100


def test_an_applied_command_may_still_fail() -> None:
    client = FakeMemcached(default_noreply=False)
    with client.faults.on(FaultKind.APPLIED_THEN_ERROR), pytest.raises(ConnectionResetError):
        client.set(b"a", b"x")
    assert client.get(b"a") == b"x"


def test_a_delay_beyond_the_timeout_is_a_timeout() -> None:
    slept: list[float] = []
    server = FakeMemcachedServer(sleep=slept.append)
    client = FakeMemcached(server, timeout=0.5, default_noreply=False)
    client.set(b"a", b"x")
    with client.faults.on(FaultKind.DELAY, operations=["get"], delay_s=0.4):
        assert client.get(b"a") == b"x"
    with client.faults.on(FaultKind.DELAY, operations=["get"], delay_s=0.6), pytest.raises(TimeoutError):
        client.get(b"a")
    assert slept == [0.4, 0.5]


def test_conditions_can_be_ignored() -> None:
    client = FakeMemcached(default_noreply=False)
    client.set(b"a", b"x")
    with client.faults.on(FaultKind.IGNORED_PRECONDITION):
        assert client.add(b"a", b"y")


def test_a_fault_that_the_fake_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="EVENTUAL_LISTING"):
        FakeMemcached().faults.switch_on(FaultKind.EVENTUAL_LISTING)
