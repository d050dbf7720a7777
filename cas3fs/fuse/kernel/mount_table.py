# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's table of mounts, ``/proc/self/mountinfo`` (proc(5)).

The fields of a line are: id, parent, device, root, mount point, options, optional fields, a single dash, type, source,
super options. Space, tab, newline and backslash in names are written as a backslash and three octal digits. Reading it
sends no request to any file system.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOUNT_TABLE = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mounted(NamedTuple):
    """One mount: the number of the file system as stat(2) has it, where it is mounted, its type, and its source."""

    device: int
    path: bytes
    type: bytes
    source: bytes


def read_mount_table(table: Path = MOUNT_TABLE) -> Iterator[Mounted]:
    """The mounts that this process can see; one covers those before it on the same path."""
    for line in table.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        _id, _parent, device, _root, path, *_ = before.split(b" ")
        kind, source = after.split(b" ")[:2]
        major, minor = device.split(b":")
        yield Mounted(os.makedev(int(major), int(minor)), _plain(path), kind, _plain(source))


def _plain(escaped: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match.group(1), 8)]), escaped)
