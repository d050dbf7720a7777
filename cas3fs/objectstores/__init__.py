# SPDX-License-Identifier: GPL-3.0-or-later
"""Object stores: immutable objects in a bucket, a directory or memory, behind one interface.

Vocabulary:

- *object*: bytes under a *key*; it is put once and never overwritten.
- *metadata*: a few short strings that are stored with an object; some stores drop them.
- *store*: a place for objects, named by a URL (`urls`); the interface is `base`.
- *wrapper*: a store around another that adds one concern: retries, limits, metrics (`wrappers`). `open_store` stacks
  them around a bare store.

The subpackage does not know of volumes, entries, packs or blocks: to it every object is bytes.
"""

from cas3fs.objectstores.base import Body, ListPage, ObjectInfo, ObjectStore
from cas3fs.objectstores.probe import probe_create_if_absent
from cas3fs.objectstores.urls import open_store, parse_url
from cas3fs.objectstores.wrappers import RetryPolicy

__all__ = [
    "Body",
    "ListPage",
    "ObjectInfo",
    "ObjectStore",
    "RetryPolicy",
    "open_store",
    "parse_url",
    "probe_create_if_absent",
]
