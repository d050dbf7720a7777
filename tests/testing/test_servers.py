# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers for tests start, can be stopped in several ways, and leave nothing behind."""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cas3fs.config import StoreSettings
from cas3fs.errors import AccessDenied, ObjectExists, StoreUnreachable
from cas3fs.objectstores.s3 import S3Store
from cas3fs.testing import servers
from cas3fs.testing.servers import REGION, RcloneServer, S3Server


@pytest.fixture
def rclone(tmp_path: Path) -> Iterator[RcloneServer]:
    with servers.rclone_s3(tmp_path) as server:
        server.make_bucket("volume")
        yield server


def open_bucket(server: S3Server, secret_key: str | None = None) -> S3Store:
    secret_key = secret_key or server.secret_key
    settings = StoreSettings("s3://volume", server.endpoint_url, server.access_key, secret_key, REGION)
    return S3Store("volume", settings=settings)


def test_rclone_serves_a_folder_for_the_length_of_the_context(tmp_path: Path) -> None:
    with servers.rclone_s3(tmp_path) as server:
        server.make_bucket("volume")
        server.make_bucket("volume")
        with closing(open_bucket(server)) as store:
            store.put_if_absent("a/b", b"bytes")
        process = server.process
    assert (tmp_path / "volume/a/b").read_bytes() == b"bytes"
    assert process.poll() is not None


def test_rclone_accepts_only_its_own_key(rclone: RcloneServer) -> None:
    with closing(open_bucket(rclone, secret_key="wrong")) as store, pytest.raises(AccessDenied, match="wrong secret"):
        store.put_if_absent("a", b"")


def test_a_killed_server_is_unreachable_until_it_is_restarted(rclone: RcloneServer) -> None:
    with closing(open_bucket(rclone)) as store:
        store.put_if_absent("a", b"bytes")
        rclone.kill()
        with pytest.raises(StoreUnreachable, match="Connection refused"):
            store.get("a")
        rclone.restart()
        assert store.get("a") == b"bytes"


def test_a_paused_server_continues(rclone: RcloneServer) -> None:
    rclone.pause()
    _, status = os.waitpid(rclone.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    rclone.resume()
    with closing(open_bucket(rclone)) as store:
        store.put_if_absent("a", b"bytes")
        assert store.get("a") == b"bytes"


def test_a_paused_server_can_be_stopped(tmp_path: Path) -> None:
    with servers.rclone_s3(tmp_path) as server:
        server.pause()
    assert server.process.poll() is not None


def test_the_error_of_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    rclone = tmp_path / "bin" / "rclone"
    rclone.write_text("#!/bin/sh\necho no room on this port >&2\nexit 1\n")
    rclone.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(StoreUnreachable, match="does not start: no room on this port"), servers.rclone_s3(tmp_path):
        pass


def test_moto_loses_all_buckets_at_its_end() -> None:
    for _ in range(2):
        with servers.moto_s3() as server:
            server.make_bucket("volume")
            with closing(open_bucket(server)) as store:
                store.put_if_absent("a", b"bytes")
                assert [info.key for info in store.list()] == ["a"]


def test_of_two_concurrent_puts_on_moto_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.s3.models import S3Backend

    put = S3Backend.put_object

    def put_late(*args: Any, **options: Any) -> Any:
        time.sleep(0.2)  # the condition was looked at already
        return put(*args, **options)

    monkeypatch.setattr(S3Backend, "put_object", put_late)
    with servers.moto_s3() as server:
        server.make_bucket("volume")
        with closing(open_bucket(server)) as store, ThreadPoolExecutor(2) as pool:

            def creates(body: bytes) -> bool:
                try:
                    store.put_if_absent("a", body)
                except ObjectExists:
                    return False
                return True

            assert sorted(pool.map(creates, (b"one", b"two"))) == [False, True]


def test_a_program_can_use_a_server_through_its_environment(
    rclone: RcloneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rclone.environment.items():
        monkeypatch.setenv(name, value)
    with closing(S3Store("volume")) as store:
        store.put_if_absent("a", b"bytes")
    assert (rclone.root / "volume/a").read_bytes() == b"bytes"
