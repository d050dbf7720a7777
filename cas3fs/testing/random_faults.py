# SPDX-License-Identifier: GPL-3.0-or-later
"""A command that is run while its local disk, its databases and its store fail at random.

::

    python -m cas3fs.testing.random_faults SEED WHILE-FILE disk,sqlite,store mount VOLUME DIRECTORY --foreground

While the file exists, faults of the kinds that are named come and go some times a second, several at once: those of
`cas3fs.testing.faulty_disk`, `cas3fs.testing.sqlite_faults` and `cas3fs.testing.faulty_store`. Which ones follows from
the seed; what they hit depends on the moment. Soon after the file has gone nothing fails any more, and what the disk
has lost stays lost. Left out are the faults that nobody can notice: a put that is answered and forgotten, and one that
ignores its condition.

Locks: none of its own; one thread switches faults on and off.
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
LONGEST_BREATH_S: Final = 0.05
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
MOST_AT_ONCE: Final = 8
Trouble = Callable[[], Callable[[], object]]
"""Switches something on, and gives what switches it off."""


def disk_troubles(chance: random.Random) -> Iterator[Trouble]:
    """What trigger the local disk of this process, under staging and the disk cache."""
    disk = FaultyDisk()
    for place in ("cas3fs.filesystem.state.staging.LocalDisk", "cas3fs.caches.disk.LocalDisk"):
        mock.patch(place, lambda: disk).start()

    def fail() -> Callable[[], object]:
        on = ExitStack()
        operation, number = chance.choice(DISK_OPERATIONS), chance.choice(DISK_ERRORS)
        on.enter_context(disk.failing(operation, number, after=chance.randrange(6), times=chance.randrange(1, 4)))
        return on.close

    def lose() -> Callable[[], object]:
        disk.lose_writes()
        return lambda: None

    yield from (fail, fail, fail, fail, lose)


def sqlite_troubles(chance: random.Random, faults: SqliteFaults) -> Iterator[Trouble]:
    """What trigger a statement of a database."""

    def fail() -> Callable[[], object]:
        on = ExitStack()
        kind, file = chance.choice(SQLITE_FAULTS), chance.choice(DATABASES)
        on.enter_context(faults.on(kind, at=chance.randrange(1, 60), times=chance.randrange(1, 3), file=file))
        return on.close

    yield from (fail, fail)


def store_troubles(chance: random.Random, stores: FaultyStores) -> Iterator[Trouble]:
    """What trigger requests to the store, and what it lies about."""
    moments: list[object] = []

    def fail() -> Callable[[], object]:
        moments.append(stores.faults.moment())
        fault: Fault = stores.faults.switch_on(
            chance.choice(STORE_KINDS),
            key_prefix=chance.choice(PREFIXES),
            times=chance.randrange(1, 4),
            delay_s=0.02,
            moment=chance.choice(moments),
        )
        return lambda: stores.faults.switch_off(fault)

    yield from (fail, fail)


@contextmanager
def random_faults(seed: int, kinds: Sequence[str], lasts: Callable[[], bool]) -> Iterator[None]:
    """Has this process meet such faults while `lasts` says so.

    Raises:
        ValueError: there is no such kind.
    """
    chance = random.Random(seed)
    with ExitStack() as made:
        troubles: list[Trouble] = []
        for kind in kinds:
            if kind == "disk":
                troubles += disk_troubles(chance)
            elif kind == "sqlite":
                troubles += sqlite_troubles(chance, made.enter_context(sqlite_faults()))
            elif kind == "store":
                troubles += store_troubles(chance, made.enter_context(faulty_stores()))
            else:
                raise ValueError(f"there are no faults of {kind}")
        made.callback(mock.patch.stopall)
        ended = threading.Event()
        made.callback(ended.set)
        threading.Thread(target=_switch, args=(chance, troubles, lasts, ended), daemon=True).start()
        yield


def _switch(
    chance: random.Random, troubles: Sequence[Trouble], lasts: Callable[[], bool], ended: threading.Event
) -> None:
    """Switches troubles on and off."""
    on: list[Callable[[], object]] = []
    while not ended.wait(chance.uniform(0, LONGEST_BREATH_S)):
        if lasts():
            on.append(chance.choice(troubles)())
        most = chance.randrange(MOST_AT_ONCE) if lasts() else 0
        while len(on) > most:
            on.pop(0)()


def main(arguments: Sequence[str]) -> None:
    """The command of the module: becomes ``python -m cas3fs`` under such faults."""
    if len(arguments) < 4 or not arguments[0].isdigit():
        raise SystemExit(USAGE)
    seed, flag, kinds, *rest = arguments
    sys.argv[1:] = rest
    with random_faults(int(seed), kinds.split(","), Path(flag).exists):
        runpy.run_module("cas3fs", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
