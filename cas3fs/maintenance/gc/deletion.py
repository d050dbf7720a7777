# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting objects of a volume: a store that refuses some of them keeps nobody from deleting the others."""

from collections.abc import Callable, Sequence

from cas3fs.errors import DeleteFailed
from cas3fs.objectstores import ObjectStore


class ObjectDeleter:
    """Deletes objects, after it was asked whether that may be.

    Args:
        ask_leave: called before every batch; raises where nothing may be deleted any more.

    Attributes:
        refused: how many objects the store has refused to delete.
    """

    def __init__(self, store: ObjectStore, check_fence: Callable[[], None]) -> None:
        self._store = store
        self._check_fence = check_fence
        self.refused = 0
        self._reason = ""

    def delete(self, keys: Sequence[str]) -> Sequence[str]:
        """Deletes the objects of one batch; gives the keys of those that are gone now.

        Raises:
            Fenced: another writer has taken over; nothing of the batch is deleted.
            StoreError: the store failed; nobody knows what is gone.
        """
        self._check_fence()
        try:
            self._store.delete_many(keys)
        except DeleteFailed as error:
            refused = set(error.keys) or set(keys)
            self.refused += len(refused)
            self._reason = self._reason or str(error)
            return [key for key in keys if key not in refused]
        return keys

    @property
    def problem(self) -> str:
        """What a person is told; empty where everything went."""
        if not self.refused:
            return ""
        return f"{self.refused:,} objects could not be deleted, and a later gc tries again: {self._reason}"
