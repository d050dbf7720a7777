# SPDX-License-Identifier: GPL-3.0-or-later
"""Who claims, what was claimed, and how names of epochs read."""

import os
import pwd
import re
import socket
from pathlib import Path
from typing import Final, NamedTuple, Self
from uuid import UUID

import attrs

from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.entries.kinds import EpochEntry, ReleaseEntry
from cas3fs.epochs.machines import Machine, this_machine
from cas3fs.errors import VolumeFormatError
from cas3fs.values import LARGEST_EPOCH

_NAME = re.compile(r"([0-9]{8,10})(-[0-9a-f]{32})?\Z")
_LIKE_A_NAME = re.compile(r"[0-9]+(-[0-9a-f]*)?\Z")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Identity(NamedTuple):
    """Who claims, as others are told."""

    host: str
    user: str
    pid: int
    boot_id: str = ""
    machine: str = ""
    board: str = ""
    """As in `Machine`."""

    @property
    def home(self) -> Machine:
        """The machine."""
        return Machine(self.machine, self.board)

    @classmethod
    def of_this_process(cls) -> Self:
        """This process on this machine."""
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = str(os.getuid())
        boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
        return cls(socket.gethostname(), user, os.getpid(), boot_id, *this_machine())


class Handover(NamedTuple):
    """What the last release before a claim says is in the store."""

    snapshot: str | None = None
    """Id of the newest snapshot; None where it names none."""
    retained: tuple[str, ...] = ()
    """Ids of all snapshots."""


NOTHING_TOLD: Final = Handover()


@attrs.frozen
class Claim:
    """A won claim."""

    epoch: int
    uuid: UUID
    key: str
    """Of its entry in the store."""
    lineage: tuple[UUID, ...]
    """Earlier claims of this state directory, oldest first, since another writer last held the volume. Empty: what the
    state directory holds, if anything, is not of the line that the store is on."""
    took_over: str | None = None
    """Key of the held epoch that this claim took over from another writer."""
    before: int = 0
    """Number of the epoch before; 0 where there was none."""
    after_release: bool = True
    """Whether the epoch before was released, or there was none."""
    base_due: bool = False
    """Whether a writer was taken over from, and no base tells where the line went on: this claim has to write one."""
    handover: Handover = NOTHING_TOLD
    overruled: frozenset[int] | None = None
    """The epochs that were taken over and not released at the time of the claim; None where that is not known."""
    bases: frozenset[int] | None = None
    """The epochs before that have a base; None where that is not known."""


class EpochState(NamedTuple):
    """An epoch as the store shows it."""

    entry: EpochEntry
    """A claim of nobody where it could not be read."""
    released: bool
    release: ReleaseEntry | None = None
    """None too where it could not be read."""
    damage: str = ""
    """Why the entry cannot be read; empty where it can."""


def is_foreign(key: str) -> bool:
    """Whether no version of cas3fs put the object `key`, which lies where epochs do: nothing depends on it."""
    name = key.removeprefix(EpochEntry.prefix()).partition(SUB_SEPARATOR)[0]
    return _LIKE_A_NAME.match(name) is None


def number_of(key: str) -> int:
    """The number of the epoch that `key`, of an epoch or its sub-entry, belongs to."""
    name = key.removeprefix(EpochEntry.prefix()).partition(SUB_SEPARATOR)[0]
    match = _NAME.match(name)
    if match is None or not int(match[1]) < LARGEST_EPOCH:
        raise VolumeFormatError(f"{key} is no epoch that this version of cas3fs knows: was it made by a newer one?")
    return int(match[1])
