# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether programs may change anything, and the error that they get where they may not.

Three things refuse changes:

- the file system was mounted or turned read-only: everything gets EROFS, for good;
- the index has lost its open group: everything gets EROFS until the group is written again;
- the local disk has come down to its reserve: what needs space gets ENOSPC until the disk has space again.
"""

import errno
import logging
import threading

from cas3fs.errors import FileSystemError

_log = logging.getLogger(__name__)


class WriteAccess:
    """Decides about changes.  Its methods need the file system's lock, but for those that say otherwise."""

    def __init__(self, space_available: threading.Condition, *, read_only: bool) -> None:
        """Grants or refuses everything.

        Args:
            space_available: is notified when writers that wait for space would wait in vain, or need not any more.
            read_only: refuse all changes from the beginning.
        """
        self._space_available = space_available
        self._closed_reason = "mounted read-only" if read_only else ""
        self._is_disk_low = False
        self.group_lost_reason = ""
        """Set while the index has lost its group: memory is ahead of it, and nothing can be committed."""
        self.refusal = 0
        """The errno that every change gets; 0 while changes are allowed."""
        self.change_count = 0
        """How many changes programs have asked for."""
        self._update_refusal()

    @property
    def read_only_reason(self) -> str:
        """Why all changes are refused; empty while they are not.  Needs no lock."""
        return self._closed_reason or self.group_lost_reason

    def turn_read_only(self, reason: str) -> None:
        """Refuses every change from now on.  Takes the lock itself."""
        with self._space_available:
            self._closed_reason = self._closed_reason or reason
            self._update_refusal()
            self._space_available.notify_all()

    def set_disk_low(self, is_low: bool) -> None:
        """Notes whether the local disk has come down to its reserve.  Takes the lock itself."""
        with self._space_available:
            self._is_disk_low = is_low
            self._update_refusal()
            self._space_available.notify_all()

    def set_group_lost(self, reason: str) -> None:
        """Notes that SQLite has undone the open group, whichever statement failed; empty when it is written again."""
        if reason:
            if not self.group_lost_reason:
                _log.critical("read-only until it can be written again: %s", reason)
            self.group_lost_reason = f"the changes of the last seconds cannot be written, it is tried again: {reason}"
            self._space_available.notify_all()
        else:
            _log.warning("the changes of the last seconds are written again, so the mount takes changes again")
            self.group_lost_reason = ""
        self._update_refusal()

    def _update_refusal(self) -> None:
        self.refusal = errno.EROFS if self.read_only_reason else errno.ENOSPC if self._is_disk_low else 0

    def check_change(self) -> None:
        """Counts a change that a program asks for.

        Raises:
            FileSystemError: EROFS or ENOSPC, it is refused.
        """
        self.change_count += 1
        if self.refusal:
            raise FileSystemError(self.refusal)

    def check_removal(self) -> None:
        """As `check_change`, for what frees space.

        Raises:
            FileSystemError: EROFS.
        """
        if self.read_only_reason:
            raise FileSystemError(errno.EROFS)
