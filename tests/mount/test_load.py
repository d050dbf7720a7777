# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount under a mixed load: nothing of it grows, nothing of it stands still for long, and no byte is wrong."""

import statistics
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cas3fs.control import SOCKET_NAME, ControlClient, Message

from .conftest import Machine, new_bucket
from .load import MIB, Latencies, Worker

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer

WORKERS = 16
LONGEST_OPERATION_S = 5.0
SAMPLES = 120
MOST_MEMORY_BYTES, MOST_LOG_BYTES = 384 * MIB, 192 * MIB
LONG_S = 600.0
GROWN_BYTES, GROWN_LONG_BYTES = 64 * MIB, 24 * MIB
"""How much memory may rise after the first third: noise, and in a short load caches that are not full yet. With some
1,000 operations a second, 64 MiB in 80 s is what a leak of 800 bytes each makes, 24 MiB in 20 minutes one of 20."""
SNAPSHOT_EVERY_S, GC_EVERY_S = 7.0, 20.0
CLEAN = 0


class Sample(NamedTuple):
    """What the process of a mount holds at an instant."""

    memory_bytes: int
    threads: int
    descriptors: int
    """But those of files in staging, which come and go with what waits to be stored."""
    staging_bytes: int
    log_bytes: int
    """Of the write-ahead logs of its databases."""


def sample(pid: int, state: Path) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Sample(
        int(status["VmRSS"].split()[0]) * 1024,
        int(status["Threads"]),
        sum(not is_staged(path) for path in open_paths(pid)),
        ask(state, "status")["pending"]["size_bytes"],
        sum(path.stat().st_size for path in state.glob("*-wal")),
    )


def open_paths(pid: int) -> list[str]:
    """What the descriptors of a process lead to."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(descriptor.readlink()))
    return found


def is_staged(path: str) -> bool:
    return "/staging/" in path


def ask(state: Path, verb: str, **args: object) -> Message:
    with ControlClient(state / SOCKET_NAME) as client:
        return client.call(verb, args)


def growth(values: list[int]) -> float:
    """How much a straight line through the values rises from the first to the last."""
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope * (len(values) - 1)


class Upkeep(threading.Thread):
    """Publishes snapshots and collects garbage until `stop` is set; `error` is what ended it before that."""

    def __init__(self, state: Path, stop: threading.Event) -> None:
        super().__init__(name="upkeep")
        self.error: BaseException | None = None
        self._state = state
        self._stop_asked = stop

    def run(self) -> None:
        collect_s = time.monotonic() + GC_EVERY_S
        try:
            while not self._stop_asked.wait(SNAPSHOT_EVERY_S):
                ask(self._state, "flush")
                if time.monotonic() > collect_s:
                    ask(self._state, "gc", dry_run=False, min_live=0.7, max_rewrite_bytes=None, grace_s=1.0)
                    collect_s += GC_EVERY_S
        except BaseException as error:  # noqa: BLE001
            self.error = error
            self._stop_asked.set()


def run_load(
    machine: Machine, pid: int, state: Path, duration_s: float, latencies: Latencies
) -> tuple[list[Worker], list[Sample]]:
    """Lets all work for that long; gives the workers, and what the mount held on the way."""
    stop, samples = threading.Event(), []
    workers = [Worker(machine.dir, number, latencies, stop) for number in range(WORKERS)]
    upkeep = Upkeep(state, stop)
    for one in (*workers, upkeep):
        one.start()
    for _ in range(SAMPLES):
        if stop.wait(duration_s / SAMPLES):
            break
        samples.append(sample(pid, state))
    stop.set()
    for one in (*workers, upkeep):
        one.join()
    if errors := [one.error for one in (*workers, upkeep) if one.error is not None]:
        raise AssertionError(machine.log()[-20_000:]) from errors[0]
    return workers, samples


def check_growth(samples: list[Sample], duration_s: float) -> None:
    """After the first third, in which caches fill, nothing rises any more."""
    steady = samples[len(samples) // 3 :]
    memory = [one.memory_bytes for one in steady]
    assert growth(memory) < (GROWN_LONG_BYTES if duration_s >= LONG_S else GROWN_BYTES), memory
    assert max(memory) < MOST_MEMORY_BYTES, memory
    for what in ("threads", "descriptors"):
        held = [getattr(one, what) for one in steady]
        assert growth(held) < max(4.0, statistics.median(held) * 0.25), (what, held)
    waiting = [one.staging_bytes for one in steady]
    assert growth(waiting) < statistics.median(waiting) + 32 * MIB, waiting
    assert max(one.log_bytes for one in steady) <= MOST_LOG_BYTES, [one.log_bytes for one in steady]


def tell(latencies: Latencies, samples: list[Sample]) -> None:
    """For who runs pytest with ``-s``, or looks into a failure."""
    worst = (told for _, told in latencies.worst.values())
    total = sum(latencies.counts.values())
    print(f"{total} operations: {dict(latencies.counts)}", *worst, *samples[:: SAMPLES // 12], sep="\n")  # noqa: T201


def held_by(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.promise("waiting-never-takes-all-workers")
@pytest.mark.lasts(300, long_s=1200)  # beside the load itself
def test_a_mount_under_load_neither_grows_nor_stalls_nor_errs(
    need_fuse: None, rclone_s3: "RcloneServer", workspace: Path, soak_s: float
) -> None:
    machine = Machine(workspace, f"s3://{new_bucket(rclone_s3, workspace)}/v", rclone_s3.environment)
    try:
        machine.mkfs()
        machine.run("snapshot", "policy", machine.url, "--keep-last", "3")
        pid = machine.mount("--cache-size", "64MiB", "--snapshot-interval", "0")
        state = next(machine.state.iterdir())
        latencies = Latencies()
        workers, samples = run_load(machine, pid, state, soak_s, latencies)
        tell(latencies, samples)
        check_growth(samples, soak_s)
        assert latencies.over(LONGEST_OPERATION_S) == []
        machine.run("flush", machine.dir)
        assert ask(state, "status")["pending"]["size_bytes"] == 0
        assert list((state / "staging").glob("*-*")) == []
        assert list(filter(is_staged, open_paths(pid))) == []
        machine.umount()
        machine.run("fsck", machine.url, status=CLEAN)
        machine.forget_everything()
        machine.mount()
        assert held_by(machine.dir) == {
            f"{one.folder.name}/{name}": content for one in workers for name, content in one.files.items()
        }
        machine.umount()
    finally:
        machine.clean_up()
