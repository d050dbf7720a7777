# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder ``lost+found``: where a repair moves what has no name, and writes what it has found."""

import os
import time
from collections.abc import Callable, Iterable

from cas3fs.filesystem import FileSystem, Owner
from cas3fs.maintenance.fsck.checker import Checker
from cas3fs.maintenance.fsck.findings import Finding
from cas3fs.maintenance.fsck.index_repair import IndexRepairer
from cas3fs.maintenance.fsck.target import FsckTarget


def make_lost_folder(filesystem: FileSystem, target: Callable[[], FsckTarget]) -> None:
    """Makes lost+found if there is none, and counts it among the root's folders; before the file system has the root in
    memory.

    Args:
        target: returns what is checked, as it is by then.

    Raises:
        IndexDatabaseError: the local disk failed.
    """
    with filesystem.index_transaction() as index:
        index.repairs().lost_folder()
    filesystem.commit()
    found = list(Checker(target()).link_counts())
    with filesystem.index_transaction() as index:
        IndexRepairer(index, 0).repair(found)
    filesystem.commit()


def leave_report(filesystem: FileSystem, findings: Iterable[Finding]) -> None:
    """Writes the findings to a new file in lost+found, which was made before.

    Raises:
        FileSystemError, IndexDatabaseError, OSError: the local disk failed.
    """
    text = "".join(f"{one.code}: {one.kind.text}: {one.about} {' '.join(one.paths)}\n" for one in findings)
    with filesystem.index_transaction() as index:
        folder = index.repairs().lost_folder()
    name = f"fsck-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06d}.txt".encode()
    inode, handle = filesystem.create(folder, name, 0o600, os.O_RDWR, Owner(os.getuid(), os.getgid()))
    filesystem.write(handle, 0, text.encode())
    filesystem.release(handle)
    filesystem.forget([(inode.number, 1)])
