# SPDX-License-Identifier: GPL-3.0-or-later
"""Publisher, committer, storers, gc and control server go on after an exception that nobody foresaw."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cas3fs.control import ControlClient, ControlServer
from cas3fs.errors import ControlError
from cas3fs.filesystem.writeback.commits import Commits, DiskReserve
from cas3fs.maintenance.gc.collector import GarbageCollector
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume
from tests.volume.conftest import Volume, write

WAIT_S = 30
SHORT_S = 0.02


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.01)


def failing_at_first(patch: pytest.MonkeyPatch, owner: type, name: str, error: Exception, times: int = 3) -> list[int]:
    """The method fails the first `times` that it is called; gives a list that grows with each call."""
    real, calls = getattr(owner, name), []

    def method(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return real(*arguments, **options)

    patch.setattr(owner, name, method)
    return calls


def trouble_of(volume: OpenVolume, name: str) -> str:
    return volume.metrics.last_errors()[name].error


@pytest.mark.promise("background-work-survives-exceptions")
def test_a_publisher_goes_on(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = volume.open()
    assert opened.publisher is not None
    assert opened.publisher.newest_age_s() is None
    failing_at_first(monkeypatch, SnapshotArchive, "create", RuntimeError("can't start new thread"))
    opened.publisher.start(SHORT_S)
    write(opened, "f", "text")
    until(lambda: opened.publisher is not None and opened.publisher.newest is not None)
    assert trouble_of(opened, "snapshots") == "can't start new thread"
    age_s = opened.publisher.newest_age_s()
    assert age_s is not None
    assert 0 <= age_s < WAIT_S
    opened.finish()


@pytest.mark.promise("background-work-survives-exceptions")
def test_a_committer_goes_on(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cas3fs.filesystem.writeback.commits._DISK_CHECK_S", SHORT_S)
    opened = volume.open()
    write(opened, "f", "text")
    disk = failing_at_first(monkeypatch, DiskReserve, "check", ValueError("for the test"))
    commits = failing_at_first(monkeypatch, Commits, "commit", MemoryError())
    monkeypatch.setattr("cas3fs.filesystem.writeback.commits._GROUP_PAGES", 0)
    until(lambda: len(commits) > 4 and len(disk) > 4)
    assert trouble_of(opened, "commits") == "MemoryError"
    assert trouble_of(opened, "local disk") == "for the test"


@pytest.mark.promise("background-work-survives-exceptions")
def test_storers_go_on(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = volume.open()
    failing_at_first(monkeypatch, type(opened.filesystem.storer), "_upload", RecursionError("for the test"), 1)
    write(opened, "f", "text" * 1000)
    opened.finish()
    assert trouble_of(opened, "storing") == "for the test"


@pytest.mark.promise("background-work-survives-exceptions")
def test_a_periodic_gc_continues_after_an_error(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = volume.open()
    calls = failing_at_first(monkeypatch, GarbageCollector, "collect", KeyError("for the test"))
    scheduler = GcScheduler(opened)
    scheduler.start(SHORT_S)
    until(lambda: len(calls) > 4)
    assert "for the test" in trouble_of(opened, "gc")
    scheduler.stop()


@pytest.mark.promise("background-work-survives-exceptions")
def test_a_control_server_goes_on_without_threads_or_descriptors(
    workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ControlServer(workspace / "socket", {"ping": lambda args, progress: {"pong": True}})
    server.start()
    try:
        with monkeypatch.context() as patch:
            failing_at_first(patch, threading.Thread, "start", RuntimeError("can't start new thread"))
            for _ in range(3):
                with pytest.raises(ControlError), ControlClient(workspace / "socket") as client:
                    client.call("ping")
        with ControlClient(workspace / "socket") as client:
            assert client.call("ping") == {"pong": True}
    finally:
        server.close()


def test_the_age_of_the_head_is_known_after_a_mount(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.use("here", f="text")
    opened = volume.open()
    assert opened.publisher is not None
    monkeypatch.setattr(SnapshotArchive, "load", None)
    age_s = opened.publisher.newest_age_s()
    assert age_s is not None
    assert 0 <= age_s < WAIT_S
