# SPDX-License-Identifier: GPL-3.0-or-later
"""The identity of a writer, and of the machine that it runs on, as far as it can be known.

Two ids make up a machine's: its machine-id, which a cloned machine may share, and the id of its board, which only root
may read; virtual machines have one too, usually a new one in each clone. Both are written into the store, so they are
hashed with a key of our own, as machine-id(5) asks. An id that is unknown, as in many containers, is not compared.
"""

import contextlib
import hashlib
import hmac
import os
import pwd
import re
import socket
from pathlib import Path
from typing import Final, NamedTuple, Self

_APPLICATION: Final = bytes.fromhex("5b7f0f3c29d84c0b9f0e6a3b1d5c8e21")
_MACHINE_IDS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_BOARD_IDS: Final = (Path("/sys/class/dmi/id/product_uuid"),)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_HEX_ID: Final = re.compile(r"[0-9a-f]{32}\Z")


class MachineId(NamedTuple):
    """The hashed ids of a machine; an empty string is unknown."""

    machine: str = ""
    board: str = ""

    def differs(self, other: "MachineId") -> bool:
        """Return whether these are certainly two machines."""
        return any(mine and theirs and mine != theirs for mine, theirs in zip(self, other, strict=True))


UNKNOWN_MACHINE: Final = MachineId()


def local_machine_id(
    machine_ids: tuple[Path, ...] = _MACHINE_IDS, board_ids: tuple[Path, ...] = _BOARD_IDS
) -> MachineId:
    """Return the id of this machine, as far as it is known."""
    return MachineId(_first_hashed(machine_ids), _first_hashed(board_ids))


class WriterIdentity(NamedTuple):
    """The process that claims an epoch, as shown to others."""

    host: str
    user: str
    pid: int
    boot_id: str = ""
    machine: str = ""
    board: str = ""
    """`machine` and `board` as in `MachineId`."""

    @property
    def machine_id(self) -> MachineId:
        return MachineId(self.machine, self.board)

    @classmethod
    def of_this_process(cls) -> Self:
        """Return the identity of this process on this machine."""
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = str(os.getuid())
        boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
        return cls(socket.gethostname(), user, os.getpid(), boot_id, *local_machine_id())


def _first_hashed(paths: tuple[Path, ...]) -> str:
    """Return the hash of the first id that can be read; empty if none can."""
    for path in paths:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            plain = path.read_text().strip().lower().replace("-", "")
            if _HEX_ID.match(plain) and len(set(plain)) > 1:  # some boards have only zeros, or only F
                return hmac.new(bytes.fromhex(plain), _APPLICATION, hashlib.sha256).hexdigest()[:32]
    return ""
