# SPDX-License-Identifier: GPL-3.0-or-later
"""How a user names a cache, and what whoever makes one is given.

::

    SPEC      NAME ":" ARGUMENT
    NAME      lower-case letters, digits, "+", "-", "."; it chooses the kind of cache
    ARGUMENT  [ "//" PLACE | SIZE | whatever the kind takes ] [ "?" KEY "=" VALUE *( "&" KEY "=" VALUE ) ]

``disk:10GiB``, ``memcached://one:11211,two:11211?timeout=20ms``, ``web+https://cache.example/blocks``.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote

import attrs

from cas3fs.caches.base import BlockCache
from cas3fs.errors import UsageError
from cas3fs.metrics import Metrics

_NAME: Final = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_Value = TypeVar("_Value")


@attrs.frozen
class CacheSpec:
    """One cache as the user named it."""

    text: str
    """All of it, for messages."""
    name: str
    """The kind of cache."""
    argument: str
    """What stood behind the name and its colon, without options."""
    options: Mapping[str, str]
    """What stood behind the question mark."""

    @classmethod
    def parse(cls, text: str) -> "CacheSpec":
        """The spec that `text` is.

        Raises:
            UsageError: it is none.
        """
        name, colon, rest = text.strip().partition(":")
        if not colon or not _NAME.match(name):
            raise UsageError(f"{text!r} names no cache: write memory:256MiB, disk:10GiB or memcached://HOST:11211")
        argument, _, query = rest.partition("?")
        options = {}
        for pair in filter(None, query.split("&")):
            key, equals, value = pair.partition("=")
            if not equals or key in options:
                raise UsageError(f"{text}: {pair!r} is no option of a cache; write KEY=VALUE, each key once")
            options[key] = unquote(value)
        return cls(text.strip(), name, argument, options)

    def argument_as(self, read: Callable[[str], _Value]) -> _Value:
        """What `read` makes of the argument.

        Raises:
            UsageError: as `read` does, with the spec named.
        """
        try:
            return read(self.argument)
        except UsageError as error:
            raise UsageError(f"{self.text}: {error}") from error

    def option(self, key: str, read: Callable[[str], _Value], default: _Value) -> _Value:
        """What `read` makes of an option, or `default`.

        Raises:
            UsageError: as `read` does, with the spec named.
        """
        if key not in self.options:
            return default
        try:
            return read(self.options[key])
        except UsageError as error:
            raise UsageError(f"{self.text}: {key}: {error}") from error

    def allow_options(self, *known: str) -> None:
        """Refuses options that are not `known`.

        Raises:
            UsageError: there are some.
        """
        if unknown := set(self.options) - set(known):
            raise UsageError(f"{self.text}: there is no option {', '.join(sorted(unknown))}")


@attrs.frozen
class CacheContext:
    """What a cache may want to know of its surroundings."""

    volume: str
    """The volume's uuid. Where a cache serves several volumes its keys must carry it: then they never mix."""
    directory: Path
    """A folder on this machine for blocks of this volume; it may be lost at any time, and need not exist yet."""
    metrics: Metrics
    """For counters beyond hits and misses, which are counted for every cache."""


CacheFactory = Callable[[CacheSpec, CacheContext], BlockCache]
"""Makes a cache of one kind; what the entry points of the group ``cas3fs.caches`` name.

It raises UsageError where the spec makes no sense, and nothing where a server is down: that is a miss.
"""
