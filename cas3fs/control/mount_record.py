# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process serves a volume on this machine, as its state directory records, and whether that process listens."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import attrs

from cas3fs.control.protocol import short_socket_path
from cas3fs.durable import replace_file

SOCKET_NAME = "control.sock"
MOUNT_RECORD_NAME = "mount.json"


@attrs.frozen
class MountRecord:
    """Which process serves a volume on this machine, and where it is mounted."""

    url: str
    volume: str
    mountpoint: str
    pid: int

    def save(self, state_dir: Path) -> None:
        """Writes the record into the volume's state directory, replacing an older one."""
        replace_file(state_dir / MOUNT_RECORD_NAME, json.dumps(attrs.asdict(self)), sync=False)

    @classmethod
    def load(cls, state_dir: Path) -> "MountRecord | None":
        """The record in a volume's state directory; None when there is none that can be read."""
        try:
            return cls(**json.loads((state_dir / MOUNT_RECORD_NAME).read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None


def find_mount_records(state_root: Path) -> Iterator[tuple[Path, MountRecord]]:
    """The state directories below `state_root` whose process listens, with their records."""
    for file in sorted(state_root.glob(f"*/{MOUNT_RECORD_NAME}")) if state_root.is_dir() else []:
        record = MountRecord.load(file.parent)
        if record is not None and is_listening(file.parent / SOCKET_NAME):
            yield file.parent, record


def is_listening(path: Path) -> bool:
    """Whether a server listens at `path`; does not wait for it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            with short_socket_path(path) as name:
                connection.connect(name)
        except BlockingIOError:  # so many wait to be accepted that no more may
            return True
        except OSError:
            return False
    return True
