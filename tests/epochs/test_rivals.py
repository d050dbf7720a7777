# SPDX-License-Identifier: GPL-3.0-or-later
"""One of two concurrent claims wins, on real stores that honour conditions and on one that does not."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cas3fs.config import StoreSettings
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Claim, Epochs, WriterIdentity
from cas3fs.errors import EpochHeld
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore, open_store, probe_create_if_absent
from cas3fs.testing.servers import S3Server, s3_client

TIMES = 50


@pytest.fixture(params=["directory", "moto", "rclone"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    (tmp_path / "v").mkdir()
    url = (tmp_path / "v").as_uri()
    if request.param != "directory":
        server: S3Server = request.getfixturevalue(f"{request.param}_s3")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        client = s3_client(server)
        client.create_bucket(Bucket=f"rivals-{request.param}")
        client.close()
        url = f"s3://rivals-{request.param}/volume"
    made = open_store(StoreSettings(url), metrics=Metrics())
    yield made
    made.close()


@pytest.mark.promise("rival-claims-withdraw")
def test_one_of_two_concurrent_claims_wins_each_time(store: ObjectStore, tmp_path: Path) -> None:
    conditional_writes = probe_create_if_absent(store)
    epochs = Epochs(Shelf(store), conditional_writes=conditional_writes, sleep=lambda wait_s: time.sleep(wait_s / 10))
    barrier = threading.Barrier(2)

    def claim(host: str) -> Claim | None:
        barrier.wait()
        try:
            return epochs.claim(WriterIdentity(host, "user", 1), tmp_path / host)
        except EpochHeld:
            return None

    with ThreadPoolExecutor(2) as pool:
        for _ in range(TIMES):
            won = [one for one in pool.map(claim, ("alpha", "beta")) if one is not None]
            assert len(won) == 1
            assert epochs.is_newest(won[0])
            epochs.release(won[0])
