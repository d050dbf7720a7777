# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of the fake memcached: it carries out commands of the text protocol on items in memory.

The least recently used items are evicted first; the size of an item is that of its key, its value and `OVERHEAD_BYTES`.
It is not thread-safe: the server holds its lock around `step`.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

import attrs

from cas3fs.testing.faults import FaultKind, Faults

VERSION: Final = b"1.6.18"
OVERHEAD_BYTES: Final = 56
MAX_KEY_BYTES: Final = 250
_RELATIVE_S: Final = 30 * 24 * 3600
"""Larger expirations are points in time."""
_COUNTER_LIMIT: Final = 1 << 64

MEMCACHED_FAULTS: Final = frozenset(
    {
        FaultKind.DELAY,
        FaultKind.UNAVAILABLE,
        FaultKind.THROTTLED,
        FaultKind.RESET,
        FaultKind.TRUNCATED,
        FaultKind.APPLIED_THEN_ERROR,
        FaultKind.IGNORED_PRECONDITION,
    }
)


@attrs.define
class Item:
    """A value with its flags and expiration."""

    value: bytes
    flags: bytes
    expires_s: float
    """Infinite for an item that never expires."""
    cas: int


class Step(NamedTuple):
    """A command that was carried out."""

    used: int
    """The length of the command in bytes."""
    answer: bytes
    delay_s: float = 0.0
    resets_connection: bool = False
    """The server resets the connection after it."""
    closes_connection: bool = False
    """The server closes the connection after it."""


class MemcachedEngine:
    """The items and the commands on them."""

    def __init__(self, limit_bytes: int, item_bytes: int, faults: Faults) -> None:
        self.items: OrderedDict[bytes, Item] = OrderedDict()
        self._limit_bytes = limit_bytes
        self._item_bytes = item_bytes
        self._faults = faults
        self._size_bytes = 0
        self._serial = 0
        self._evictions = 0

    def step(self, received: bytes) -> Step | None:
        """Carry out the first command of `received`; None if it is not complete."""
        line, end, rest = received.partition(b"\r\n")
        if not end:
            return None
        words = line.split()
        name = words[0].decode("latin-1") if words else ""
        used, body = len(line) + 2, b""
        if name in _STORING and len(words) >= 5:
            length = int(words[4])
            if len(rest) < length + 2:
                return None
            used, body = used + length + 2, rest[:length]
        return self._with_faults(name, words[1:], body, used)

    def corrupt(self, key: bytes, value: bytes) -> None:
        """Replace the value of an existing key, and nothing else."""
        item = self.items[key]
        self._size_bytes += len(value) - len(item.value)
        item.value = value

    def _with_faults(self, name: str, words: list[bytes], body: bytes, used: int) -> Step:
        key = words[0].decode("latin-1") if words else ""
        delay = self._faults.trigger(FaultKind.DELAY, name, key)
        delay_s = delay.delay_s if delay else 0.0
        if self._faults.trigger(FaultKind.RESET, name, key):
            return Step(used, b"", delay_s, resets_connection=True)
        if self._faults.trigger(FaultKind.UNAVAILABLE, name, key):
            return Step(used, b"SERVER_ERROR out of memory\r\n", delay_s)
        if self._faults.trigger(FaultKind.THROTTLED, name, key):
            return Step(used, b"SERVER_ERROR too busy\r\n", delay_s)
        answer = self._answer(name, words, body)
        if self._faults.trigger(FaultKind.APPLIED_THEN_ERROR, name, key):
            return Step(used, b"", delay_s, resets_connection=True)
        if self._faults.trigger(FaultKind.TRUNCATED, name, key):
            return Step(used, answer[: len(answer) // 2], delay_s, closes_connection=True)
        if words and words[-1] == b"noreply" and name not in _FETCHING:
            answer = b""
        return Step(used, answer, delay_s, closes_connection=name in ("quit", "shutdown"))

    def _answer(self, name: str, words: list[bytes], body: bytes) -> bytes:
        if name in _STORING:
            return self._store(name, words, body)
        if name in _FETCHING:
            return self._fetch(words, with_cas=name == "gets")
        if name in ("incr", "decr"):
            return self._count(words[0], int(words[1]) * (1 if name == "incr" else -1))
        if name == "mg":
            return self._meta_get(words)
        if name == "delete":
            return b"DELETED\r\n" if self._drop(words[0]) else b"NOT_FOUND\r\n"
        if name == "touch":
            return self._touch(words[0], int(words[1]))
        if name == "flush_all":
            self.items.clear()
            self._size_bytes = 0
            return b"OK\r\n"
        if name == "stats":
            return self._stats()
        return _FIXED.get(name, b"ERROR\r\n")

    def _store(self, name: str, words: list[bytes], body: bytes) -> bytes:
        key, flags, expire = words[0], words[1], int(words[2])
        if len(key) > MAX_KEY_BYTES:
            return b"CLIENT_ERROR bad command line format\r\n"
        if len(body) + len(key) + OVERHEAD_BYTES > self._item_bytes:
            self._drop(key)
            return b"SERVER_ERROR object too large for cache\r\n"
        old = self._get(key)
        refusal = self._refusal(name, old, words)
        if refusal and not self._faults.trigger(FaultKind.IGNORED_PRECONDITION, name, key.decode("latin-1")):
            return refusal
        if old is not None and name in ("append", "prepend"):
            body = old.value + body if name == "append" else body + old.value
            flags = old.flags
            self._put(key, Item(body, flags, old.expires_s, 0))
        else:
            self._put(key, Item(body, flags, _expiry(expire), 0))
        return b"STORED\r\n"

    @staticmethod
    def _refusal(name: str, old: Item | None, words: list[bytes]) -> bytes:
        """What is answered when the condition of a command does not hold; nothing when it does."""
        if name == "cas" and old is None:
            return b"NOT_FOUND\r\n"
        if name == "cas" and old is not None and old.cas != int(words[4]):
            return b"EXISTS\r\n"
        if (name == "add") if old is not None else name in ("replace", "append", "prepend"):
            return b"NOT_STORED\r\n"
        return b""

    def _fetch(self, keys: list[bytes], *, with_cas: bool) -> bytes:
        answer = []
        for key in keys:
            item = self._get(key)
            if item is not None:
                cas = b" %d" % item.cas if with_cas else b""
                answer.append(b"VALUE %b %b %d%b\r\n%b\r\n" % (key, item.flags, len(item.value), cas, item.value))
        return b"".join([*answer, b"END\r\n"])

    def _meta_get(self, words: list[bytes]) -> bytes:
        """``mg KEY [k]``: whether it is there."""
        if self._get(words[0]) is None:
            return b"EN\r\n"
        return b"HD k%b\r\n" % words[0] if b"k" in words[1:] else b"HD\r\n"

    def _count(self, key: bytes, change: int) -> bytes:
        item = self._get(key)
        if item is None:
            return b"NOT_FOUND\r\n"
        if not item.value.isdigit():
            return b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
        value = b"%d" % (max(0, int(item.value) + change) % _COUNTER_LIMIT)
        self._put(key, Item(value, item.flags, item.expires_s, 0))
        return value + b"\r\n"

    def _touch(self, key: bytes, expire: int) -> bytes:
        item = self._get(key)
        if item is None:
            return b"NOT_FOUND\r\n"
        item.expires_s = _expiry(expire)
        return b"TOUCHED\r\n"

    def _stats(self) -> bytes:
        figures = {"curr_items": len(self.items), "bytes": self._size_bytes, "evictions": self._evictions}
        figures |= {"limit_maxbytes": self._limit_bytes, "total_items": self._serial}
        lines = [f"STAT {name} {value}\r\n".encode() for name, value in figures.items()]
        return b"".join([b"STAT version " + VERSION + b"\r\n", *lines, b"END\r\n"])

    def _get(self, key: bytes) -> Item | None:
        item = self.items.get(key)
        if item is None:
            return None
        if item.expires_s <= time.time():
            self._drop(key)
            return None
        self.items.move_to_end(key)
        return item

    def _put(self, key: bytes, item: Item) -> None:
        self._drop(key)
        self._serial += 1
        item.cas = self._serial
        self.items[key] = item
        self._size_bytes += _charge(key, item)
        while self._size_bytes > self._limit_bytes:
            self._evictions += 1
            self._drop(next(iter(self.items)))

    def _drop(self, key: bytes) -> bool:
        item = self.items.pop(key, None)
        if item is not None:
            self._size_bytes -= _charge(key, item)
        return item is not None


def _charge(key: bytes, item: Item) -> int:
    return len(key) + len(item.value) + OVERHEAD_BYTES


def _expiry(expire: int) -> float:
    if expire == 0:
        return float("inf")
    return float(expire) if expire > _RELATIVE_S else time.time() + expire


_STORING: Final = frozenset({"set", "add", "replace", "append", "prepend", "cas"})
_FETCHING: Final = frozenset({"get", "gets"})
_FIXED: Final[Mapping[str, bytes]] = {
    "version": b"VERSION " + VERSION + b"\r\n",
    "mn": b"MN\r\n",
    "verbosity": b"OK\r\n",
    "cache_memlimit": b"OK\r\n",
    "quit": b"",
    "shutdown": b"",
}
