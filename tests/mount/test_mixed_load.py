# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount under a mixed load: nothing grows, no operation stalls, and every byte is right."""

import statistics
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cas3fs.control import SOCKET_NAME, ControlClient, Message

from .conftest import CliMachine, new_bucket
from .mixed_load import MIB, Latencies, LoadThread

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer

WORKERS = 16
LONGEST_OPERATION_S = 5.0
SAMPLES = 120
MAX_MEMORY_BYTES, MAX_LOG_BYTES = 384 * MIB, 192 * MIB
LONG_S = 600.0
GROWN_BYTES, GROWN_LONG_BYTES = 64 * MIB, 24 * MIB
"""How much memory may grow after the first third: noise, and in a short load caches that are not full yet. At 1,000
operations a second, 64 MiB in 80 s is a leak of 800 bytes per operation, and 24 MiB in 20 minutes one of 20 bytes."""
SNAPSHOT_EVERY_S, GC_EVERY_S = 7.0, 20.0
CLEAN = 0


class Sample(NamedTuple):
    """The resources of a mount's process at one instant."""

    memory_bytes: int
    threads: int
    descriptors: int
    """Without those of staged files, which depend on how much waits to be stored."""
    staging_bytes: int
    log_bytes: int
    """The size of the write-ahead logs of its databases."""


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
    """The targets of the descriptors of a process."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            found.append(str(descriptor.readlink()))
    return found


def is_staged(path: str) -> bool:
    return "/staging/" in path


def ask(state: Path, verb: str, **args: object) -> Message:
    with ControlClient(state / SOCKET_NAME) as client:
        return client.call(verb, args)


def growth(values: list[int]) -> float:
    """The rise of a regression line through the values, from the first to the last."""
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope * (len(values) - 1)


class MaintenanceThread(threading.Thread):
    """Publishes snapshots and runs gc until `stop` is set; `error` is the exception that ended it before, if any."""

    def __init__(self, state: Path, stop: threading.Event) -> None:
        super().__init__(name="maintenance")
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
    machine: CliMachine, pid: int, state: Path, duration_s: float, latencies: Latencies
) -> tuple[list[LoadThread], list[Sample]]:
    """Run the load for that long; returns the threads, and samples of the mount's resources."""
    stop, samples = threading.Event(), []
    workers = [LoadThread(machine.dir, number, latencies, stop) for number in range(WORKERS)]
    maintenance = MaintenanceThread(state, stop)
    for one in (*workers, maintenance):
        one.start()
    for _ in range(SAMPLES):
        if stop.wait(duration_s / SAMPLES):
            break
        samples.append(sample(pid, state))
    stop.set()
    for one in (*workers, maintenance):
        one.join()
    if errors := [one.error for one in (*workers, maintenance) if one.error is not None]:
        raise AssertionError(machine.log()[-20_000:]) from errors[0]
    return workers, samples


def check_growth(samples: list[Sample], duration_s: float) -> None:
    """Check that nothing grows after the first third, in which the caches fill."""
    steady = samples[len(samples) // 3 :]
    memory = [one.memory_bytes for one in steady]
    assert growth(memory) < (GROWN_LONG_BYTES if duration_s >= LONG_S else GROWN_BYTES), memory
    assert max(memory) < MAX_MEMORY_BYTES, memory
    for what in ("threads", "descriptors"):
        values = [getattr(one, what) for one in steady]
        assert growth(values) < max(4.0, statistics.median(values) * 0.25), (what, values)
    waiting = [one.staging_bytes for one in steady]
    assert growth(waiting) < statistics.median(waiting) + 32 * MIB, waiting
    assert max(one.log_bytes for one in steady) <= MAX_LOG_BYTES, [one.log_bytes for one in steady]


def print_summary(latencies: Latencies, samples: list[Sample]) -> None:
    """Print latencies and samples, for ``pytest -s`` and for failures."""
    worst = (line for _, line in latencies.worst.values())
    total = sum(latencies.counts.values())
    print(f"{total} operations: {dict(latencies.counts)}", *worst, *samples[:: SAMPLES // 12], sep="\n")  # noqa: T201


def contents_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.promise("waiting-never-takes-all-workers")
@pytest.mark.lasts(300, long_s=1200)  # beside the load itself
def test_a_mount_under_load_is_stable(
    need_fuse: None, encryption: str, rclone_s3: "RcloneServer", workspace: Path, soak_s: float
) -> None:
    """Its memory does not grow, no operation stalls, and every byte is right."""
    machine = CliMachine(workspace, f"s3://{new_bucket(rclone_s3, workspace)}/v", rclone_s3.environment)
    try:
        machine.mkfs()
        machine.run("snapshot", "policy", machine.url, "--keep-last", "3")
        pid = machine.mount("--cache-size", "64MiB", "--snapshot-interval", "0")
        state = next(machine.state.iterdir())
        latencies = Latencies()
        workers, samples = run_load(machine, pid, state, soak_s, latencies)
        print_summary(latencies, samples)
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
        assert contents_of(machine.dir) == {
            f"{one.folder.name}/{name}": content for one in workers for name, content in one.files.items()
        }
        machine.umount()
    finally:
        machine.clean_up()
