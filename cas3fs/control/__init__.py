# SPDX-License-Identifier: GPL-3.0-or-later
r"""The Unix socket through which commands talk to the process that has a volume open.

Format: lines of JSON in UTF-8, each ended by ``\n``; a request is at most 1 MiB long, an answer 256 MiB. A client sends
requests, one after the other::

    {"verb": "flush", "args": {}}

and for each the server answers with any number of ``{"progress": {...}}``, then one ``{"result": {...}}`` or
``{"error": {"type": "StoreUnreachable", "message": "..."}}``. The type is a name of `cas3fs.errors`; the client
raises it again.

An answer may take hours, with no progress told. So whoever has heard nothing for some seconds asks, by a connection of
its own, for ``alive``, which every server answers at once (one of an older version by an error, which is as good a
sign), and goes on waiting as long as there are signs. A process that is stopped, or gives none, is given up on.

The socket is ``control.sock`` in the volume's state folder, mode 0600; the peer's user id must be the server's own,
or root. Beside it ``mount.json`` (a `MountRecord`) tells who serves it; it outlives the mount point itself while the
process is still storing. Paths of sockets are limited to 107 bytes by the kernel: so both sides go by
``/proc/self/fd/<folder>``.
"""

from cas3fs.control.client import ALIVE_TIMEOUT_S, QUIET_S, ControlClient, wait_until_alive
from cas3fs.control.mount_record import MOUNT_RECORD_NAME, SOCKET_NAME, MountRecord, find_mount_records, is_listening
from cas3fs.control.protocol import MAX_LINE_BYTES, Message, Progress
from cas3fs.control.server import ControlServer, Handler

__all__ = [
    "ALIVE_TIMEOUT_S",
    "MAX_LINE_BYTES",
    "MOUNT_RECORD_NAME",
    "QUIET_S",
    "SOCKET_NAME",
    "ControlClient",
    "ControlServer",
    "Handler",
    "Message",
    "MountRecord",
    "Progress",
    "find_mount_records",
    "is_listening",
    "wait_until_alive",
]
