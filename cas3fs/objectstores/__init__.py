# SPDX-License-Identifier: GPL-3.0-or-later
"""Where immutable objects live, behind one interface: a bucket, a directory, or memory.

Vocabulary: an *object* is bytes under a *key*, put once, never overwritten; its *metadata* are a few short strings that
travel with it and may get lost on the way; a *store* is where they live, named by a URL; a *wrapper* is a store around
another that adds one concern.

Above the bare stores lie the wrappers, stacked in one function, `open_store`. The room does not know of volumes,
entries, packs or blocks: to it every object is bytes.
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
