# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of a server that tests switch on and off.

A *fault* is a kind of trouble, the operations and keys it befalls, and how often it does. Fakes ask `Faults.befalls` at
the points where a real server could fail in that way::

    with fake_s3.faults.on(FaultKind.RESET, operations=["put_object"], times=2):
        ...

Locks: one, around the list; nothing else is done under it.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum

import attrs


class FaultKind(Enum):
    """What can go wrong."""

    DELAY = "the answer takes `delay_s` longer"
    UNAVAILABLE = "503, or a server error"
    THROTTLED = "429, or a server that is too busy"
    RESET = "the connection breaks before anything is done"
    TRUNCATED = "the answer breaks off in the middle"
    APPLIED_THEN_ERROR = "all is done, and then the connection breaks"
    LISTING_ENDS_EARLY = "a listing claims to be complete and is not"
    IGNORED_PRECONDITION = "what should be done only under a condition is always done"
    EVENTUAL_LISTING = "listings show what was there when the fault was switched on"


@attrs.define(eq=False)
class Fault:
    """One fault that is switched on."""

    kind: FaultKind
    operations: frozenset[str]
    """Empty: all."""
    key_prefix: str
    times_left: int | None
    """None: until it is switched off."""
    delay_s: float
    befell: int = 0
    """How often it happened."""
    memory: object = None
    """What the fake noted when the fault was switched on."""

    def concerns(self, operation: str, key: str) -> bool:
        """Whether it may befall that operation on that key."""
        return (
            self.times_left != 0
            and (not self.operations or operation in self.operations)
            and key.startswith(self.key_prefix)
        )


class Faults:
    """The faults of one fake, which knows those of `kinds`."""

    def __init__(self, kinds: Iterable[FaultKind] = FaultKind) -> None:
        self._kinds = frozenset(kinds)
        self._lock = threading.Lock()
        self._on: list[Fault] = []

    def switch_on(
        self,
        kind: FaultKind,
        *,
        operations: Iterable[str] = (),
        key_prefix: str = "",
        times: int | None = None,
        delay_s: float = 0.0,
        memory: object = None,
    ) -> Fault:
        """Let trouble of `kind` befall `operations` on keys that begin with `key_prefix`, `times` times.

        Raises:
            ValueError: this fake has no such fault.
        """
        if kind not in self._kinds:
            raise ValueError(f"this fake knows no {kind.name}")
        fault = Fault(kind, frozenset(operations), key_prefix, times, delay_s, memory=memory)
        with self._lock:
            self._on.append(fault)
        return fault

    def switch_off(self, fault: Fault) -> None:
        """End it; nothing happens if it had ended."""
        with self._lock:
            if fault in self._on:
                self._on.remove(fault)

    def clear(self) -> None:
        """Switch all off."""
        with self._lock:
            self._on.clear()

    @contextmanager
    def on(
        self,
        kind: FaultKind,
        *,
        operations: Iterable[str] = (),
        key_prefix: str = "",
        times: int | None = None,
        delay_s: float = 0.0,
    ) -> Iterator[Fault]:
        """`switch_on` for the length of a ``with``."""
        fault = self.switch_on(kind, operations=operations, key_prefix=key_prefix, times=times, delay_s=delay_s)
        try:
            yield fault
        finally:
            self.switch_off(fault)

    def befalls(self, kind: FaultKind, operation: str, key: str = "") -> Fault | None:
        """The fault of that kind that happens now, counted; None if none does."""
        with self._lock:
            for fault in self._on:
                if fault.kind is kind and fault.concerns(operation, key):
                    fault.befell += 1
                    if fault.times_left is not None:
                        fault.times_left -= 1
                    return fault
        return None
