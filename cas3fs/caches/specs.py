# SPDX-License-Identifier: GPL-3.0-or-later
"""Cache specs: how a user names a cache, and what a factory of caches receives. Open to other packages.

::

    SPEC      NAME ":" ARGUMENT
    NAME      lower-case letters, digits, "+", "-", "."; the kind of cache
    ARGUMENT  [ "//" PLACE | SIZE | anything that the kind accepts ] [ "?" KEY "=" VALUE *( "&" KEY "=" VALUE ) ]

``disk:10GiB``, ``memcached://one:11211,two:11211?timeout=20ms``, ``web+https://cache.example/blocks``.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote

import attrs

from cas3fs.caches.base import BlockCache, BlockCheck, check_plainly
from cas3fs.errors import UsageError
from cas3fs.metrics import Metrics

SEALED: Final = "sealed"
"""Used in place of the uuid of an encrypted volume, so that shared caches do not learn which volume a block is of."""
_NAME: Final = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_Value = TypeVar("_Value")


@attrs.frozen
class CacheSpec:
    """One cache, as the user wrote it."""

    text: str
    """The whole spec, for messages."""
    name: str
    """The kind of cache."""
    argument: str
    """The text between the colon and the options."""
    options: Mapping[str, str]
    """The text after the question mark, by key."""

    @classmethod
    def parse(cls, text: str) -> "CacheSpec":
        """Parse a spec.

        Raises:
            UsageError: `text` is not one.
        """
        name, colon, rest = text.strip().partition(":")
        if not colon or not _NAME.match(name):
            raise UsageError(f"{text!r} is not a cache: write memory:256MiB, disk:10GiB or memcached://HOST:11211")
        argument, _, query = rest.partition("?")
        options = {}
        for pair in filter(None, query.split("&")):
            key, equals, value = pair.partition("=")
            if not equals or key in options:
                raise UsageError(f"{text}: {pair!r} is not an option; write KEY=VALUE, each key once")
            options[key] = unquote(value)
        return cls(text.strip(), name, argument, options)

    def argument_as(self, parse: Callable[[str], _Value]) -> _Value:
        """Parse the argument with `parse`.

        Raises:
            UsageError: `parse` raised it; the message names the spec.
        """
        try:
            return parse(self.argument)
        except UsageError as error:
            raise UsageError(f"{self.text}: {error}") from error

    def option(self, key: str, parse: Callable[[str], _Value], default: _Value) -> _Value:
        """Parse an option with `parse`; return `default` if it is not given.

        Raises:
            UsageError: `parse` raised it; the message names the spec and the option.
        """
        if key not in self.options:
            return default
        try:
            return parse(self.options[key])
        except UsageError as error:
            raise UsageError(f"{self.text}: {key}: {error}") from error

    def allow_options(self, *known: str) -> None:
        """Check that all options are `known`.

        Raises:
            UsageError: one is not.
        """
        if unknown := set(self.options) - set(known):
            raise UsageError(f"{self.text}: there is no option {', '.join(sorted(unknown))}")


@attrs.frozen
class CacheContext:
    """What a factory of caches receives beside the spec."""

    volume: str
    """The volume's uuid. A cache that serves several volumes must have it in its keys, so that they never mix.

    It is `SEALED` for every cache outside this machine of an encrypted volume, whose names are unique without it."""
    directory: Path
    """A folder on this machine for blocks of this volume. It may not exist yet, and may be deleted at any time."""
    metrics: Metrics
    """For further counters; hits and misses are counted for every cache."""
    check: BlockCheck = check_plainly
    """Whether bytes are those that were put under a name. A cache that checks what it returns must do it by this: only
    in a volume that is not encrypted is the name BLAKE3 of the bytes."""


CacheFactory = Callable[[CacheSpec, CacheContext], BlockCache]
"""Makes a cache of one kind; the entry points of the group ``cas3fs.caches`` refer to such a function.

It raises UsageError for an invalid spec. It does not raise when a server is down: that is a miss.
"""
