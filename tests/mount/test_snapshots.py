# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots by command, of real mounts on each kind of store: complete states, taken while the volume is in use."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cas3fs.config import StoreSettings
from cas3fs.metrics import Metrics
from cas3fs.objectstores import open_store

from .conftest import CliMachine, new_bucket, wait_for_exit

if TYPE_CHECKING:
    from cas3fs.testing.servers import S3Server


@pytest.fixture(params=["directory", "moto", "rclone"])
def each_machine(
    request: pytest.FixtureRequest, need_fuse: None, encryption: str, workspace: Path
) -> Iterator[CliMachine]:
    """A machine, and a place for a volume on each kind of store: moto honours conditions, rclone ignores them."""
    made = machine_on(request, workspace, request.param)
    yield made
    made.clean_up()


def machine_on(request: pytest.FixtureRequest, workspace: Path, kind: str) -> CliMachine:
    if kind == "directory":
        (workspace / "v").mkdir()
        return CliMachine(workspace / "one", (workspace / "v").as_uri(), {})
    server: S3Server = request.getfixturevalue(f"{kind}_s3")
    name = new_bucket(server, workspace)
    return CliMachine(workspace / "one", f"s3://{name}/volume", server.environment)


@pytest.fixture
def second(request: pytest.FixtureRequest, workspace: Path) -> Iterator[CliMachine]:
    """Another machine with access to the same volume."""
    first: CliMachine = request.getfixturevalue("each_machine" if "each_machine" in request.fixturenames else "machine")
    made = CliMachine(workspace / "two", first.url, {})
    made.environment = first.environment
    yield made
    made.clean_up()


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every file of a tree, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_retained_snapshot_shows_its_state(each_machine: CliMachine, second: CliMachine) -> None:
    machine = each_machine
    machine.mkfs()
    machine.mount("--snapshot-interval", "0")
    manifests: dict[str, dict[str, str]] = {}
    for number in range(2):
        (machine.dir / f"folder {number}").mkdir()
        (machine.dir / f"folder {number}" / "file").write_bytes(os.urandom(100_000))
        (machine.dir / "rewritten").write_bytes(os.urandom(200_000 - number))
        made = machine.report("snapshot", "create", machine.dir, "--name", f"number {number}")
        manifests[made["id"]] = hashes(machine.dir)
    (machine.dir / "rewritten").unlink()
    (machine.dir / "later").write_text("not in any of them")
    machine.run("flush", machine.dir)
    assert "writing stopped for the last snapshot" in " ".join(machine.run("stats", machine.dir).stdout.split())
    retained = machine.report("snapshot", "list", machine.dir)
    assert [one["name"] for one in retained] == ["number 0", "number 1", None]
    manifests[retained[-1]["id"]] = hashes(machine.dir)
    past = machine.root / "past"
    past.mkdir()
    for snapshot, expected in manifests.items():
        machine.run("mount", machine.url, past, "--snapshot", snapshot)
        assert hashes(past) == expected
        why = "is the newest" if snapshot == retained[-1]["id"] else f"is mounted on {past}"
        assert why in machine.fail("snapshot", "delete", machine.dir, snapshot)
        assert f"shown snapshot {snapshot}" in " ".join(machine.run("stats", past).stdout.split())
        with pytest.raises(OSError, match="Read-only"):
            (past / "new").touch()
        machine.run("umount", past)
    machine.umount()
    assert_snapshots_are(second, manifests)


def assert_snapshots_are(machine: CliMachine, manifests: dict[str, dict[str, str]]) -> None:
    """Check that exactly these snapshots exist, as read by a machine without state."""
    assert [one["id"] for one in machine.report("snapshot", "list", machine.url)] == list(manifests)
    for snapshot, expected in manifests.items():
        out = machine.root / "out" / snapshot
        out.parent.mkdir(exist_ok=True)
        machine.run("snapshot", "extract", machine.url, snapshot, "/", out)
        assert hashes(out) == expected, snapshot


def test_a_renamed_over_file_is_old_or_new_in_a_snapshot(each_machine: CliMachine, second: CliMachine) -> None:
    machine = each_machine
    machine.mkfs()
    machine.mount("--snapshot-interval", "1s")
    stopping = threading.Event()

    def rewrite() -> None:
        number = 0
        while not stopping.is_set():
            for name in ("small", "large"):
                size = 5_000 if name == "small" else 700_000
                (machine.dir / f"{name}.new").write_bytes(b"%08d" % number * (size // 8))
                (machine.dir / f"{name}.new").rename(machine.dir / name)
            number += 1

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        time.sleep(4)  # snapshots are taken meanwhile
    finally:
        stopping.set()
        thread.join()
    machine.umount()
    found = [one["id"] for one in machine.report("snapshot", "list", machine.url)]
    assert len(found) >= 3
    for snapshot in found:
        out = second.root / snapshot
        second.run("snapshot", "extract", second.url, snapshot, "/", out)
        for name, size in (("small", 5_000), ("large", 700_000)):
            if (out / name).exists():
                data = (out / name).read_bytes()
                assert len(data) == size // 8 * 8, snapshot
                assert len({data[place : place + 8] for place in range(0, len(data), 8)}) == 1, snapshot


def test_restoring_back_and_forth_with_gc_between(each_machine: CliMachine, second: CliMachine) -> None:
    machine = each_machine
    machine.mkfs()
    machine.mount()
    (machine.dir / "a").write_bytes(b"first" * 50_000)
    machine.umount()
    first = machine.report("snapshot", "list", machine.url)[-1]["id"]
    machine.mount()
    (machine.dir / "a").write_bytes(b"second" * 50_000)
    assert "unmount it" in machine.fail("snapshot", "restore", machine.dir, first)
    assert "is mounted on" in second.fail("snapshot", "restore", machine.url, first)
    machine.umount()
    replaced = machine.report("snapshot", "list", machine.url)[-1]["id"]
    restored = machine.report("snapshot", "restore", machine.url, first)
    assert (restored["parent"], restored["restored"]) == (replaced, first)
    machine.mount()
    assert (machine.dir / "a").read_bytes() == b"first" * 50_000
    (machine.dir / "b").write_bytes(b"third" * 50_000)
    machine.umount()
    machine.run("gc", machine.url, "--grace", "0s")
    second.run("snapshot", "restore", second.url, replaced)
    second.run("gc", second.url, "--grace", "0s")
    second.mount()
    assert hashes(second.dir).keys() == {"a"}
    assert (second.dir / "a").read_bytes() == b"second" * 50_000
    second.umount()


@pytest.mark.promise("a-fenced-writer-stops")
def test_a_fenced_writer_detects_the_takeover(each_machine: CliMachine, second: CliMachine) -> None:
    machine = each_machine
    machine.mkfs()
    pid = machine.mount("--snapshot-interval", "200ms")
    (machine.dir / "published").write_text("by the first")
    machine.run("flush", machine.dir)
    os.kill(pid, signal.SIGSTOP)
    try:
        output = second.fail("mount", second.url, second.dir)
        assert "--take-over" in output
        assert f"process {pid}" in output
        second.mount("--take-over")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (second.dir / "published").read_text() == "by the first"
    (second.dir / "new").write_text("by the second")
    deadline_s = time.monotonic() + 20
    while not machine.report("stats", machine.dir)["fenced"]:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    with pytest.raises(OSError, match="Read-only"):
        (machine.dir / "refused").touch()
    assert "another writer has taken over" in machine.log()
    assert "cas3fs rescue" in machine.fail("umount", machine.dir)
    wait_for_exit(pid)
    second.umount()
    machine.mount()
    assert hashes(machine.dir).keys() == {"published", "new"}
    machine.umount()


@pytest.mark.promise("data-of-a-fenced-writer-can-be-saved")
def test_unstored_data_of_a_fenced_writer_is_rescued(each_machine: CliMachine, second: CliMachine) -> None:
    machine = each_machine
    machine.mkfs()
    pid = machine.mount("--snapshot-interval", "0")
    (machine.dir / "published").write_text("x")
    machine.run("flush", machine.dir)
    data = os.urandom(2_000_000)
    (machine.dir / "folder").mkdir()
    (machine.dir / "folder" / "unpublished").write_bytes(data)
    second.mount("--take-over")
    assert "taken over" in machine.fail("flush", machine.dir)
    machine.fail("umount", machine.dir)
    wait_for_exit(pid)
    output = machine.run("rescue", machine.state, machine.root / "saved").stdout
    assert f"cas3fs epochs {machine.url} --release 1" in output
    assert (machine.root / "saved" / "folder" / "unpublished").read_bytes() == data
    assert not (machine.root / "saved" / "published").exists()
    assert "taken over, not released" in second.run("epochs", second.dir).stdout
    assert second.report("gc", second.dir, "--grace", "0s")["strays_left"] > 0
    assert "gc` may delete" in second.run("epochs", second.dir, "--release", "1").stdout
    assert "is the newest" in second.fail("epochs", second.dir, "--release", "2")
    assert second.report("gc", second.dir, "--grace", "0s")["strays_left"] == 0
    assert (second.dir / "published").read_text() == "x"
    second.umount()
    done = machine.run("mount", machine.url, machine.dir)
    assert "it is set aside" in done.stderr and "`cas3fs rescue" in done.stderr
    machine.umount()


@pytest.mark.promise("a-flush-reaches-the-store")
def test_remote_fsync_returns_when_data_is_in_a_snapshot(machine: CliMachine, second: CliMachine) -> None:
    machine.mkfs()
    machine.mount("--fsync", "remote", "--snapshot-interval", "0")

    def write(number: int) -> None:
        with open(machine.dir / f"file {number}", "wb") as file:
            file.write(b"%d" % number * 1000)
            file.flush()
            os.fsync(file.fileno())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = machine.report("snapshot", "list", machine.dir)
    assert len(found) <= 8
    out = second.root / "out"
    second.run("snapshot", "extract", second.url, found[-1]["id"], "/", out)
    assert len(list(out.iterdir())) == 8
    machine.umount()


@pytest.mark.promise("one-of-two-mounts-wins")
def test_one_of_two_simultaneous_mounts_wins(machine: CliMachine, second: CliMachine) -> None:
    machine.mkfs()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            mounts = [pool.submit(one.run, "mount", one.url, one.dir) for one in (machine, second)]
            failures = [mount.exception() for mount in mounts]
            won = [one for one, failure in zip((machine, second), failures, strict=True) if failure is None]
            assert len(won) == 1, failures
            won[0].umount()


def delete_object(machine: CliMachine, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete an object from the store of the volume."""
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)
    with closing(open_store(StoreSettings(machine.url), metrics=Metrics())) as store:
        store.head(key)
        store.delete_many([key])


@pytest.mark.encryption("plain", "encrypted")
@pytest.mark.promise("a-damaged-newest-snapshot-is-reported")
def test_a_damaged_newest_snapshot_is_reported(each_machine: CliMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before can be mounted and restored."""
    machine = each_machine
    machine.mkfs()
    machine.mount()
    (machine.dir / "a").write_text("first")
    machine.umount()
    machine.mount()
    (machine.dir / "b").write_text("second")
    machine.umount()
    first, newest = (one["id"] for one in machine.report("snapshot", "list", machine.url))
    delete_object(machine, f"pages/{newest}", monkeypatch)
    machine.forget_everything()
    assert f"mount --snapshot {first}" in machine.fail("mount", machine.url, machine.dir)
    machine.run("mount", machine.url, machine.dir, "--snapshot", first)
    assert hashes(machine.dir).keys() == {"a"}
    machine.run("umount", machine.dir)
    machine.run("snapshot", "restore", machine.url, first)
    machine.mount()
    assert hashes(machine.dir).keys() == {"a"}
    machine.umount()
