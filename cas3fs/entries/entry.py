# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of all kinds: what an entry is, and how its id becomes its key.

Keys::

    <folder>/<id>                 an entry of a kind with a folder
    <id>                          of a kind without one: for the few whose id says all
    <owner's key>.<id>            a sub-entry, and so on for its own sub-entries

A sub-entry does not lie in a "folder" of its owner, because stores made of files cannot hold ``a`` and ``a/b``
together. An id holds no dot, so the first dot after the folder ends the id, and what begins with a key and a dot
belongs to it.
"""

import re
import uuid
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final, Self

import attrs
from blake3 import blake3

from cas3fs.entries.attributes import stored_kind
from cas3fs.values import Buffer

SUB_SEPARATOR: Final = "."
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_=@-]*(/[A-Za-z0-9_][A-Za-z0-9_=@-]*)*\Z")


class IdSource(Enum):
    """Where the ids of a kind come from."""

    GIVEN = "given"
    RANDOM = "random"
    CONTENT = "content"


@stored_kind
class Entry:
    """An immutable, typed object; subclasses declare what they are by class variables and `attribute`s."""

    kind: ClassVar[str] = ""
    """The kind's name, as it is written into every body."""
    folder: ClassVar[str] = ""
    ids: ClassVar[IdSource] = IdSource.GIVEN
    framed: ClassVar[bool] = True
    """False for a kind whose bytes have a format of their own: the data is the body, and attributes are in the metadata
    alone, where stores may drop them: all of them need defaults."""

    id: str
    owner: str = ""
    """Key of the entry that owns this one; empty for one that stands alone."""
    unknown: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    """Attributes that this version does not know: kept as they were read."""

    def __attrs_post_init__(self) -> None:
        if not _ID.match(self.id):
            raise ValueError(f"{self.id!r} cannot be the id of an entry")

    @property
    def key(self) -> str:
        """The key of the object."""
        return self.key_of(self.id, self.owner)

    @classmethod
    def key_of(cls, entry_id: str, owner: str = "") -> str:
        """The key of the entry `entry_id` of this kind."""
        return f"{owner}{SUB_SEPARATOR}{entry_id}" if owner else cls.prefix() + entry_id

    @classmethod
    def prefix(cls) -> str:
        """What the keys of all entries of this kind that stand alone begin with."""
        return cls.folder + "/" if cls.folder else ""

    @classmethod
    def new_id(cls, data: Buffer = b"") -> str:
        """An id for a new entry: random, or the BLAKE3 of `data`.

        Raises:
            ValueError: the ids of this kind are given.
        """
        if cls.ids is IdSource.RANDOM:
            return uuid.uuid4().hex
        if cls.ids is IdSource.CONTENT:
            return blake3(data).hexdigest()
        raise ValueError(f"the id of a {cls.__name__} is given, not generated")

    def changed(self, **changes: Any) -> Self:
        """Another entry, like this one but for `changes`.

        Raises:
            InvalidAttribute: a value cannot be coerced.
        """
        return attrs.evolve(self, **changes)  # type: ignore[misc]
