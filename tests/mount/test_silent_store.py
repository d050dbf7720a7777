# SPDX-License-Identifier: GPL-3.0-or-later
"""A store that accepts every request and answers none."""

import mmap
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import TIMEOUT_S, CliMachine, new_bucket

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer

READERS = 16
SYNCS = 12
FILE_BYTES = 300_000
PROMPT_S = 15.0
"""How long other operations may take at first: the time limit for the store, on a busy machine."""


@pytest.fixture
def own_rclone(tmp_path: Path) -> Iterator["RcloneServer"]:
    """A server that no other test uses."""
    from cas3fs.testing import servers

    with servers.rclone_s3(tmp_path) as server:
        yield server


def read_directly(path: Path) -> bytes:
    """Read the first 4 KiB of a file by O_DIRECT: the kernel does not limit the number of such reads."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4096) as aligned:
            return bytes(aligned[: os.preadv(descriptor, [aligned], 0)])
    finally:
        os.close(descriptor)


@pytest.mark.promise("work-goes-on-without-the-store")
def test_reads_waiting_for_a_silent_store_block_nothing_else(
    need_fuse: None, encryption: str, own_rclone: "RcloneServer", workspace: Path
) -> None:
    machine = CliMachine(workspace, f"s3://{new_bucket(own_rclone, workspace)}/v", own_rclone.environment)
    contents = {f"f{number}": os.urandom(FILE_BYTES) for number in range(READERS)}
    try:
        machine.mkfs()
        machine.mount("--cache-size", "0")
        for name, content in contents.items():
            (machine.dir / name).write_bytes(content)
        machine.umount()
        machine.mount("--cache-size", "0")
        own_rclone.pause()
        started = threading.Semaphore(0)

        def read(name: str) -> bytes | OSError:
            started.release()
            try:
                return read_directly(machine.dir / name)
            except OSError as error:
                return error

        with ThreadPoolExecutor(READERS) as pool:
            reads = {name: pool.submit(read, name) for name in contents}
            try:
                for _ in reads:
                    assert started.acquire(timeout=TIMEOUT_S)
                for _ in range(3):
                    started_s = time.monotonic()
                    (machine.dir / "new").write_bytes(b"new")
                    (machine.dir / "new").rename(machine.dir / "renamed")
                    assert {path.name for path in machine.dir.iterdir()} == {*contents, "renamed"}
                    assert (machine.dir / "renamed").read_bytes() == b"new"
                    assert time.monotonic() - started_s < PROMPT_S
            finally:
                own_rclone.resume()
            answers = {name: each.result(3 * TIMEOUT_S) for name, each in reads.items()}
        served = [name for name, answer in answers.items() if not isinstance(answer, OSError)]
        assert served  # requests with a slot waited, and succeeded in the end
        assert all(answers[name] == contents[name][:4096] for name in served)
        for name, content in contents.items():
            assert (machine.dir / name).read_bytes() == content
        machine.umount()
    finally:
        own_rclone.resume()
        machine.clean_up()


@pytest.mark.promise("a-waiting-fsync-needs-a-slot")
def test_syncs_waiting_for_a_silent_store_block_nothing_else(
    need_fuse: None, encryption: str, own_rclone: "RcloneServer", workspace: Path
) -> None:
    machine = CliMachine(workspace, f"s3://{new_bucket(own_rclone, workspace)}/v", own_rclone.environment)
    try:
        machine.mkfs()
        machine.mount("--fsync", "remote")
        names = [f"f{number}" for number in range(SYNCS)]
        for name in names:
            (machine.dir / name).write_bytes(b"old")
        own_rclone.pause()
        started = threading.Semaphore(0)

        def sync(name: str) -> OSError | None:
            descriptor = os.open(machine.dir / name, os.O_WRONLY)
            try:
                os.write(descriptor, b"new")
                started.release()
                os.fsync(descriptor)
            except OSError as error:
                return error
            finally:
                os.close(descriptor)
            return None

        with ThreadPoolExecutor(SYNCS) as pool:
            syncs = [pool.submit(sync, name) for name in names]
            try:
                for _ in syncs:
                    assert started.acquire(timeout=TIMEOUT_S)
                for number in range(3):
                    started_s = time.monotonic()
                    (machine.dir / f"made {number}").write_bytes(b"made")
                    assert {path.name for path in machine.dir.iterdir()} >= {*names, f"made {number}"}
                    assert (machine.dir / f"made {number}").read_bytes() == b"made"
                    assert time.monotonic() - started_s < PROMPT_S
            finally:
                own_rclone.resume()
            answers = [each.result(3 * TIMEOUT_S) for each in syncs]
        assert None in answers  # requests with a slot waited, and succeeded in the end
        assert all((machine.dir / name).read_bytes() == b"new" for name in names)
        machine.umount()
    finally:
        own_rclone.resume()
        machine.clean_up()
