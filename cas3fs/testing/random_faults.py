# SPDX-License-Identifier: GPL-3.0-or-later
"""Random faults of the local disk, of databases and of the store while a command runs.

::

    python -m cas3fs.testing.random_faults SEED WHILE-FILE disk,sqlite,store mount VOLUME DIRECTORY --foreground

While the file exists, faults of these kinds are switched on and off several times a second, some at once: those of
`cas3fs.testing.faulty_disk`, `cas3fs.testing.sqlite_faults` and `cas3fs.testing.faulty_store`. The seed determines
which ones; what they affect depends on timing. Soon after the file is deleted all faults are off, but lost writes stay
lost. Faults that no program can notice are left out: a put that seems to succeed, and one that ignores its condition.

Locks: none; one thread switches faults on and off.
"""

import errno
import random
import runpy
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from unittest import mock

from cas3fs.testing.faults import Fault, FaultKind
from cas3fs.testing.faulty_disk import FaultyDisk
from cas3fs.testing.faulty_store import STORE_FAULTS, FaultyStores, faulty_stores
from cas3fs.testing.sqlite_faults import SqliteFault, SqliteFaults, sqlite_faults

USAGE: Final = "python -m cas3fs.testing.random_faults SEED WHILE-FILE disk,sqlite,store CAS3FS-ARGUMENT..."
MAX_INTERVAL_S: Final = 0.05
DISK_OPERATIONS: Final = (
    "open",
    "read",
    "read_into",
    "write",
    "append",
    "sync",
    "sync",
    "sync_folder",
    "truncate",
    "rename",
    "unlink",
)
DISK_ERRORS: Final = (errno.EIO, errno.ENOSPC, errno.EMFILE)
SQLITE_FAULTS: Final = tuple(kind for kind in SqliteFault if kind is not SqliteFault.CONSTRAINT)
STORE_KINDS: Final = sorted(
    STORE_FAULTS - {FaultKind.PUT_FORGOTTEN, FaultKind.IGNORED_PRECONDITION}, key=lambda kind: kind.name
)
DATABASES: Final = ("index.sqlite", "staging.sqlite")
PREFIXES: Final = ("", "packs/", "pages/", "snapshots/", "epochs/")
MAX_AT_ONCE: Final = 8
SwitchOn = Callable[[], Callable[[], object]]
"""Switches a fault on; returns a function that switches it off."""


def disk_faults(rng: random.Random) -> Iterator[SwitchOn]:
    """Faults of the local disk under staging and the disk cache."""
    disk = FaultyDisk()
    for place in ("cas3fs.filesystem.state.staging.LocalDisk", "cas3fs.caches.disk.LocalDisk"):
        mock.patch(place, lambda: disk).start()

    def fail() -> Callable[[], object]:
        on = ExitStack()
        operation, number = rng.choice(DISK_OPERATIONS), rng.choice(DISK_ERRORS)
        on.enter_context(disk.failing(operation, number, after=rng.randrange(6), times=rng.randrange(1, 4)))
        return on.close

    def lose() -> Callable[[], object]:
        disk.lose_writes()
        return lambda: None

    yield from (fail, fail, fail, fail, lose)


def statement_faults(rng: random.Random, faults: SqliteFaults) -> Iterator[SwitchOn]:
    """Faults of statements of the databases."""

    def fail() -> Callable[[], object]:
        on = ExitStack()
        kind, file = rng.choice(SQLITE_FAULTS), rng.choice(DATABASES)
        on.enter_context(faults.on(kind, at=rng.randrange(1, 60), times=rng.randrange(1, 3), file=file))
        return on.close

    yield from (fail, fail)


def store_faults(rng: random.Random, stores: FaultyStores) -> Iterator[SwitchOn]:
    """Faults of requests to the store."""
    moments: list[object] = []

    def fail() -> Callable[[], object]:
        moments.append(stores.faults.moment())
        fault: Fault = stores.faults.switch_on(
            rng.choice(STORE_KINDS),
            key_prefix=rng.choice(PREFIXES),
            times=rng.randrange(1, 4),
            delay_s=0.02,
            moment=rng.choice(moments),
        )
        return lambda: stores.faults.switch_off(fault)

    yield from (fail, fail)


@contextmanager
def random_faults(seed: int, kinds: Sequence[str], is_active: Callable[[], bool]) -> Iterator[None]:
    """Within this context, faults happen at random while `is_active` returns True.

    Raises:
        ValueError: there is no such kind.
    """
    rng = random.Random(seed)
    with ExitStack() as resources:
        switches: list[SwitchOn] = []
        for kind in kinds:
            if kind == "disk":
                switches += disk_faults(rng)
            elif kind == "sqlite":
                switches += statement_faults(rng, resources.enter_context(sqlite_faults()))
            elif kind == "store":
                switches += store_faults(rng, resources.enter_context(faulty_stores()))
            else:
                raise ValueError(f"there are no faults of {kind}")
        resources.callback(mock.patch.stopall)
        ended = threading.Event()
        resources.callback(ended.set)
        threading.Thread(target=_switch, args=(rng, switches, is_active, ended), daemon=True).start()
        yield


def _switch(
    rng: random.Random, switches: Sequence[SwitchOn], is_active: Callable[[], bool], ended: threading.Event
) -> None:
    """Switch faults on and off."""
    on: list[Callable[[], object]] = []
    while not ended.wait(rng.uniform(0, MAX_INTERVAL_S)):
        if is_active():
            on.append(rng.choice(switches)())
        most = rng.randrange(MAX_AT_ONCE) if is_active() else 0
        while len(on) > most:
            on.pop(0)()


def main(arguments: Sequence[str]) -> None:
    """The command of this module: runs ``python -m cas3fs`` with such faults."""
    if len(arguments) < 4 or not arguments[0].isdigit():
        raise SystemExit(USAGE)
    seed, flag, kinds, *rest = arguments
    sys.argv[1:] = rest
    with random_faults(int(seed), kinds.split(","), Path(flag).exists):
        runpy.run_module("cas3fs", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
