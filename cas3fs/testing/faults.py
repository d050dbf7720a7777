# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of a server that tests switch on and off.

A *fault* is a kind of failure, the operations and keys that it affects, and how often it happens. Fakes call
`Faults.trigger` at the points where a real server could fail in that way::

    with fake_s3.faults.on(FaultKind.RESET, operations=["put_object"], times=2):
        ...

Permanent damage to a store (lost objects, a store that is restored to an earlier state) is made with
`cas3fs.testing.store_damage`.

Locks: one, around the list of faults.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import TypeVar

import attrs

ListedValue = TypeVar("ListedValue")
"""What a fake stores under a key."""


class FaultKind(Enum):
    """What can go wrong."""

    DELAY = "the response takes `delay_s` longer"
    UNAVAILABLE = "503, or another server error"
    THROTTLED = "429, or a server that is too busy"
    RESET = "the connection is reset before the operation is carried out"
    TRUNCATED = "the response ends in the middle"
    APPLIED_THEN_ERROR = "the operation is carried out, and then the connection is reset"
    LISTING_ENDS_EARLY = "a listing claims to be complete and is not"
    IGNORED_PRECONDITION = "a conditional operation is carried out although the condition does not hold"
    EVENTUAL_LISTING = "listings show the state when the fault was switched on, or that of an earlier moment"
    LISTING_LACKS = "listings lack these objects, and claim to be complete"
    HIDDEN = "these objects seem not to exist: they are neither read nor listed"
    SHORTENED = "these objects end in the middle"
    ARCHIVED = "these objects are in an archive and must be restored before they can be read: InvalidObjectState"
    DELETION_REFUSED = "these objects may not be deleted: AccessDenied; others of the same request are deleted"
    PUT_FORGOTTEN = "a put seems to succeed, but nothing is stored"
    HTML_PAGE = "a proxy responds 200 with a page of HTML, and nothing is done"
    CONDITION_REFUSED = "501 to a conditional put"
    CHECKSUM_REFUSED = "400 to a put with a checksum"
    DAMAGED_UPLOAD = "a byte of the body of a put changes"


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
    keys: frozenset[str] = frozenset()
    """Empty: all that begin with `key_prefix`."""
    moment: object = None
    """For `EVENTUAL_LISTING`: what the fake listed at that moment (`Faults.moment`)."""
    times_triggered: int = 0
    """How often it happened."""

    def matches_operation(self, operation: str) -> bool:
        """Whether it affects that operation, on some keys."""
        return self.times_left != 0 and (not self.operations or operation in self.operations)

    def matches_key(self, key: str) -> bool:
        """Whether it affects that key."""
        return key.startswith(self.key_prefix) and (not self.keys or key in self.keys)

    def matches_prefix(self, prefix: str) -> bool:
        """Whether it affects some key that begins with `prefix`."""
        if self.keys:
            return any(key.startswith(prefix) and self.matches_key(key) for key in self.keys)
        return prefix.startswith(self.key_prefix) or self.key_prefix.startswith(prefix)

    def record(self) -> None:
        """Count one more time that it happened."""
        self.times_triggered += 1
        if self.times_left is not None:
            self.times_left -= 1


class Faults:
    """The faults of one fake.

    Args:
        kinds: the kinds of faults that the fake has.
        listed: returns what the fake would list now.
    """

    def __init__(self, kinds: Iterable[FaultKind] = FaultKind, listed: Callable[[], object] = dict) -> None:
        self._kinds = frozenset(kinds)
        self._listed = listed
        self._lock = threading.Lock()
        self._on: list[Fault] = []

    def switch_on(
        self,
        kind: FaultKind,
        *,
        operations: Iterable[str] = (),
        key_prefix: str = "",
        keys: Iterable[str] = (),
        times: int | None = None,
        delay_s: float = 0.0,
        moment: object = None,
    ) -> Fault:
        """Switch on a fault.

        Args:
            kind: what goes wrong.
            operations: the operations that it affects; empty: all.
            key_prefix: the beginning of the keys that it affects.
            keys: the keys that it affects; empty: all with that prefix.
            times: how often it happens; None: until it is switched off.
            delay_s: the length of a `DELAY`.
            moment: for `EVENTUAL_LISTING`, an earlier result of `moment`.

        Raises:
            ValueError: this fake has no such fault.
        """
        if kind not in self._kinds:
            raise ValueError(f"this fake has no fault {kind.name}")
        moment = self.moment() if kind is FaultKind.EVENTUAL_LISTING and moment is None else moment
        fault = Fault(kind, frozenset(operations), key_prefix, times, delay_s, frozenset(keys), moment)
        with self._lock:
            self._on.append(fault)
        return fault

    def moment(self) -> object:
        """What the fake lists now, for an `EVENTUAL_LISTING` that is switched on later."""
        return self._listed()

    def switch_off(self, fault: Fault) -> None:
        """Switch off a fault; harmless when it is off already."""
        with self._lock:
            if fault in self._on:
                self._on.remove(fault)

    def clear(self) -> None:
        """Switch off all faults."""
        with self._lock:
            self._on.clear()

    @contextmanager
    def on(
        self,
        kind: FaultKind,
        *,
        operations: Iterable[str] = (),
        key_prefix: str = "",
        keys: Iterable[str] = (),
        times: int | None = None,
        delay_s: float = 0.0,
        moment: object = None,
    ) -> Iterator[Fault]:
        """`switch_on` for the length of a ``with``."""
        fault = self.switch_on(
            kind,
            operations=operations,
            key_prefix=key_prefix,
            keys=keys,
            times=times,
            delay_s=delay_s,
            moment=moment,
        )
        try:
            yield fault
        finally:
            self.switch_off(fault)

    def trigger(self, kind: FaultKind, operation: str, key: str = "") -> Fault | None:
        """The fault of that kind that affects an operation on that key now, counted; None if there is none."""
        return self._count_first(kind, operation, lambda fault: fault.matches_key(key))

    def trigger_on_listing(self, kind: FaultKind, operation: str, prefix: str) -> Fault | None:
        """The fault of that kind that affects a listing of `prefix` now, counted; None if there is none."""
        return self._count_first(kind, operation, lambda fault: fault.matches_prefix(prefix))

    def trigger_on_keys(self, kind: FaultKind, operation: str, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that a fault of that kind affects now; it is counted once."""
        found: set[str] = set()
        wanted = list(keys)
        with self._lock:
            for fault in self._on:
                if fault.kind is kind and fault.matches_operation(operation):
                    affected = {key for key in wanted if fault.matches_key(key)}
                    if affected:
                        fault.record()
                        found |= affected
        return found

    def as_listed(
        self,
        operation: str,
        prefix: str,
        objects: Mapping[str, ListedValue],
        past: Callable[[Fault], Mapping[str, ListedValue]],
    ) -> Mapping[str, ListedValue]:
        """What a listing of `prefix` shows of `objects`; `past` returns the objects at the moment of a fault."""
        stale = self.trigger_on_listing(FaultKind.EVENTUAL_LISTING, operation, prefix)
        if stale is not None:
            objects = {key: found for key, found in objects.items() if not stale.matches_key(key)} | {
                key: found for key, found in past(stale).items() if stale.matches_key(key)
            }
        keys = [key for key in objects if key.startswith(prefix)]
        gone = self.trigger_on_keys(FaultKind.LISTING_LACKS, operation, keys) | self.trigger_on_keys(
            FaultKind.HIDDEN, operation, keys
        )
        return {key: found for key, found in objects.items() if key not in gone} if gone else objects

    def _count_first(self, kind: FaultKind, operation: str, matters: Callable[[Fault], bool]) -> Fault | None:
        with self._lock:
            for fault in self._on:
                if fault.kind is kind and fault.matches_operation(operation) and matters(fault):
                    fault.record()
                    return fault
        return None
