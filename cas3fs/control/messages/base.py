# SPDX-License-Identifier: GPL-3.0-or-later
"""What all requests have in common."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Generic, TypeVar

import attrs

R = TypeVar("R")
_NO_CONSTANTS: Final[Mapping[str, Any]] = MappingProxyType({})
SENT_AS_NULL: Final[Mapping[str, bool]] = MappingProxyType({"sent_as_null": True})
"""Metadata of a field of a reply. Other fields whose default is None are left out while they are None."""


class Request(Generic[R]):
    """A request whose answer is an `R`; its subclasses are attrs classes."""

    verb: ClassVar[str]
    reply: ClassVar[Any]
    """The class `R`."""
    constants: ClassVar[Mapping[str, Any]] = _NO_CONSTANTS
    """Keys of ``args`` that distinguish two requests with one verb."""


@attrs.frozen
class EmptyReply:
    """The request was carried out."""
