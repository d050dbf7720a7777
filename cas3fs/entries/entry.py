# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of all kinds: what an entry is, and how its id becomes its key.

Keys::

    <folder>/<id>                 an entry of a kind with a folder
    <id>                          an entry of a kind without one, such as the only ``volume``
    <owner's key>.<id>            a sub-entry; sub-entries may have their own

A sub-entry is not in a folder of its owner, because stores that keep objects as files cannot have ``a`` and ``a/b``
together. Ids have no dots: so the first dot after the folder ends the id, and a key that begins with the key of an
entry and a dot belongs to a sub-entry of it.
"""

import re
import uuid
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final, Self

import attrs
from blake3 import blake3

from cas3fs.entries.attributes import entry_kind
from cas3fs.values import Buffer

SUB_SEPARATOR: Final = "."
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_=@-]*(/[A-Za-z0-9_][A-Za-z0-9_=@-]*)*\Z")


class IdSource(Enum):
    """How the ids of a kind are chosen: by the caller, at random, or as the BLAKE3 of the data."""

    GIVEN = "given"
    RANDOM = "random"
    CONTENT = "content"


@entry_kind
class Entry:
    """An immutable, typed object; subclasses declare their kind with class variables and `attribute`s."""

    kind: ClassVar[str] = ""
    """The name of the kind, as stored in every body."""
    folder: ClassVar[str] = ""
    ids: ClassVar[IdSource] = IdSource.GIVEN
    framed: ClassVar[bool] = True
    """False for a kind with its own format: the data is the whole body. Its attributes are only in the user metadata,
    which stores may drop, so all of them need defaults."""

    id: str
    owner: str = ""
    """The key of the entry that owns this sub-entry; empty for any other entry."""
    unknown: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    """Attributes of a newer version, kept as they were read."""

    def __attrs_post_init__(self) -> None:
        if not _ID.match(self.id):
            raise ValueError(f"{self.id!r} is not a valid id of an entry")

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
        """How the keys of all entries of this kind begin, other than those of sub-entries."""
        return cls.folder + "/" if cls.folder else ""

    @classmethod
    def new_id(cls, data: Buffer = b"") -> str:
        """An id for a new entry: random, or the BLAKE3 of `data`.

        Raises:
            ValueError: the caller chooses the ids of this kind.
        """
        if cls.ids is IdSource.RANDOM:
            return uuid.uuid4().hex
        if cls.ids is IdSource.CONTENT:
            return blake3(data).hexdigest()
        raise ValueError(f"the id of a {cls.__name__} is chosen by the caller, not generated")

    def changed(self, **changes: Any) -> Self:
        """A copy of this entry with `changes`.

        Raises:
            InvalidAttribute: a value cannot be coerced.
        """
        return attrs.evolve(self, **changes)  # type: ignore[misc]
