# SPDX-License-Identifier: GPL-3.0-or-later
"""The store's own clock, by which the ages of its objects are measured."""

import secrets
from contextlib import suppress
from datetime import datetime
from typing import Final

from cas3fs.errors import DeleteFailed
from cas3fs.objectstores import ObjectStore

PROBE_PREFIX: Final = "probe/"
"""Objects below it test how the store behaves. One that was not deleted is deleted by a later gc."""


def store_clock_now(store: ObjectStore) -> datetime:
    """The present time by the store's clock: an object is put, its time is read, and it is deleted.

    Raises:
        StoreError: the store failed.
    """
    key = f"{PROBE_PREFIX}clock-{secrets.token_hex(8)}"
    store.put_if_absent(key, b"")
    try:
        return store.head(key).modified
    finally:
        with suppress(DeleteFailed):
            store.delete_many([key])
