# SPDX-License-Identifier: GPL-3.0-or-later
r"""The Unix socket through which commands reach the process that has a volume open.

Format: lines of JSON in UTF-8, each ended by ``\n``; a request is at most 1 MiB long, an answer 256 MiB. A client sends
requests, one after the other::

    {"verb": "flush", "args": {}}

and for each the server answers with any number of ``{"progress": {...}}``, then one ``{"result": {...}}`` or
``{"error": {"type": "StoreUnreachable", "message": "..."}}``. The type is a name of `cas3fs.errors`; the client
raises it again.

An answer may take hours without progress. So a client that has received nothing for some seconds sends ``alive`` on a
connection of its own. Every server answers that at once (an older one with an error, which will do), and the client
waits on. It gives up when the process is stopped, or does not answer ``alive``.

The socket is ``control.sock`` in the volume's state directory, mode 0600; the peer's user id must be the server's own,
or root. Beside it ``mount.json`` (a `MountRecord`) names the process and its mount point; it outlives the mount
itself while the process is still storing. The kernel limits paths of sockets to 107 bytes, so both sides use
``/proc/self/fd/<folder>``.

`messages` declares the requests and replies, and says how to add one. `cas3fs.commands.requests` says what each does:
this subpackage does not know that, nor how a volume is opened.
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
