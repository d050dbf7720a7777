# SPDX-License-Identifier: GPL-3.0-or-later
"""Which machine this is, as far as it can be known.

Two facts, each hashed with a key of our own, as machine-id(5) asks, since they are written into the store: the
machine's id, which a clone may share, and the id of its board, which only root may read and a virtual machine has too,
another one in each clone as a rule. What is not known, as in many containers, is not compared.
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

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_APPLICATION: Final = bytes.fromhex("5b7f0f3c29d84c0b9f0e6a3b1d5c8e21")
_MACHINE_IDS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_BOARD_IDS: Final = (Path("/sys/class/dmi/id/product_uuid"),)
_HEX_ID = re.compile(r"[0-9a-f]{32}\Z")


class MachineId(NamedTuple):
    """What is known of a machine; an empty text is not known."""

    machine: str = ""
    board: str = ""

    def differs(self, other: "MachineId") -> bool:
        """Whether they are two machines for sure."""
        return any(mine and theirs and mine != theirs for mine, theirs in zip(self, other, strict=True))


UNKNOWN_MACHINE: Final = MachineId()


def local_machine_id(
    machine_ids: tuple[Path, ...] = _MACHINE_IDS, board_ids: tuple[Path, ...] = _BOARD_IDS
) -> MachineId:
    """What is known of this one."""
    return MachineId(_first(machine_ids), _first(board_ids))


def _first(paths: tuple[Path, ...]) -> str:
    """The hash of the first id that can be read."""
    for path in paths:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            plain = path.read_text().strip().lower().replace("-", "")
            if _HEX_ID.match(plain) and len(set(plain)) > 1:  # some boards have nothing but zeros, or F
                return hmac.new(bytes.fromhex(plain), _APPLICATION, hashlib.sha256).hexdigest()[:32]
    return ""


class WriterIdentity(NamedTuple):
    """Who claims, as others are told."""

    host: str
    user: str
    pid: int
    boot_id: str = ""
    machine: str = ""
    board: str = ""
    """As in `MachineId`."""

    @property
    def home(self) -> MachineId:
        """The machine."""
        return MachineId(self.machine, self.board)

    @classmethod
    def of_this_process(cls) -> Self:
        """This process on this machine."""
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = str(os.getuid())
        boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
        return cls(socket.gethostname(), user, os.getpid(), boot_id, *local_machine_id())
