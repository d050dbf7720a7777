# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds out whether a store honours conditional writes, on which the safety of a volume depends.

Some servers accept the condition and ignore it. Their responses do not show that; only an attempt does.
"""

import logging
import secrets

from cas3fs.errors import AccessDenied, DeleteFailed, ObjectExists
from cas3fs.objectstores.base import ObjectStore

_log = logging.getLogger(__name__)


def probe_create_if_absent(store: ObjectStore) -> bool:
    """Put the same key twice, with different bytes: True if the second put fails and the first bytes are kept.

    The object, ``probe/`` and a random name, is deleted again; where that is not allowed it is left, with a warning.

    Raises:
        StoreError: the store cannot be reached, written or read.
    """
    key = f"probe/{secrets.token_hex(16)}"
    store.put_if_absent(key, b"first\n")
    try:
        try:
            store.put_if_absent(key, b"second\n")
        except ObjectExists:
            return store.get(key) == b"first\n"
        return False
    finally:
        _remove(store, key)


def _remove(store: ObjectStore, key: str) -> None:
    try:
        store.delete_many([key])
    except (AccessDenied, DeleteFailed) as error:
        _log.warning("the probe object %s is left in %s: %s", key, store.url, error)
