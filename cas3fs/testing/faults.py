# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of a server that tests switch on and off.

A *fault* is a kind of trouble, the operations and keys it affects, and how often it happens. Fakes call
`Faults.trigger` at the points where a real server could fail in that way::

    with fake_s3.faults.on(FaultKind.RESET, operations=["put_object"], times=2):
        ...

What is done to a store once, and stays (objects that are lost, a store that is reverted to an earlier state, a copy of
it), stands in `cas3fs.testing.store_damage`.

Locks: one, around the list; nothing else is done under it.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import TypeVar

import attrs

Listed = TypeVar("Listed")
"""What a fake keeps under a key."""


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
    EVENTUAL_LISTING = "listings show what was there when the fault was switched on, or at an earlier moment"
    LISTING_LACKS = "listings lack these objects, and claim to be complete"
    HIDDEN = "these objects are not there: they are neither read nor listed"
    SHORTENED = "these objects end in the middle"
    ARCHIVED = "these objects lie in an archive, and cannot be read before they are restored: InvalidObjectState"
    DELETION_REFUSED = "these objects may not be deleted: AccessDenied; the others of a request are"
    PUT_FORGOTTEN = "a put is answered as it should be, and nothing is stored"
    HTML_PAGE = "something on the way answers 200 with a page of HTML, and nothing is done"
    CONDITION_REFUSED = "501 to a put under a condition"
    CHECKSUM_REFUSED = "400 to a put with a checksum beside it"
    DAMAGED_UPLOAD = "a byte of what is put changes on its way"


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
    """What the fake had when the fault was switched on, or what its `moment` gave earlier."""
    times_triggered: int = 0
    """How often it happened."""

    def is_due(self, operation: str) -> bool:
        """Whether it may befall that operation, on some keys."""
        return self.times_left != 0 and (not self.operations or operation in self.operations)

    def reaches(self, key: str) -> bool:
        """Whether it may befall that key."""
        return key.startswith(self.key_prefix) and (not self.keys or key in self.keys)

    def meets(self, prefix: str) -> bool:
        """Whether it may befall a key that begins with `prefix`."""
        if self.keys:
            return any(key.startswith(prefix) and self.reaches(key) for key in self.keys)
        return prefix.startswith(self.key_prefix) or self.key_prefix.startswith(prefix)

    def count(self) -> None:
        """It happened once more."""
        self.times_triggered += 1
        if self.times_left is not None:
            self.times_left -= 1


class Faults:
    """The faults of one fake, which knows those of `kinds`; `listed` gives what it would list at present."""

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
        """Let trouble of `kind` befall `operations` on `keys`, or all that begin with `key_prefix`, `times` times.

        Raises:
            ValueError: this fake has no such fault.
        """
        if kind not in self._kinds:
            raise ValueError(f"this fake knows no {kind.name}")
        moment = self.moment() if kind is FaultKind.EVENTUAL_LISTING and moment is None else moment
        fault = Fault(kind, frozenset(operations), key_prefix, times, delay_s, frozenset(keys), moment)
        with self._lock:
            self._on.append(fault)
        return fault

    def moment(self) -> object:
        """What the fake would list now, for an `EVENTUAL_LISTING` that is switched on later."""
        return self._listed()

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
        """The fault of that kind that happens now to that key, counted; None if none does."""
        return self._count_first(kind, operation, lambda fault: fault.reaches(key))

    def trigger_on_listing(self, kind: FaultKind, operation: str, prefix: str) -> Fault | None:
        """The fault of that kind that happens now to a listing of keys that begin with `prefix`, counted."""
        return self._count_first(kind, operation, lambda fault: fault.meets(prefix))

    def trigger_on_keys(self, kind: FaultKind, operation: str, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that a fault of that kind happens to now; counted once, if any."""
        found: set[str] = set()
        wanted = list(keys)
        with self._lock:
            for fault in self._on:
                if fault.kind is kind and fault.is_due(operation):
                    reached = {key for key in wanted if fault.reaches(key)}
                    if reached:
                        fault.count()
                        found |= reached
        return found

    def as_listed(
        self, operation: str, prefix: str, objects: Mapping[str, Listed], past: Callable[[Fault], Mapping[str, Listed]]
    ) -> Mapping[str, Listed]:
        """What a listing of `prefix` shows of `objects`; `past` gives what was there at a fault's moment."""
        stale = self.trigger_on_listing(FaultKind.EVENTUAL_LISTING, operation, prefix)
        if stale is not None:
            objects = {key: found for key, found in objects.items() if not stale.reaches(key)} | {
                key: found for key, found in past(stale).items() if stale.reaches(key)
            }
        keys = [key for key in objects if key.startswith(prefix)]
        gone = self.trigger_on_keys(FaultKind.LISTING_LACKS, operation, keys) | self.trigger_on_keys(
            FaultKind.HIDDEN, operation, keys
        )
        return {key: found for key, found in objects.items() if key not in gone} if gone else objects

    def _count_first(self, kind: FaultKind, operation: str, matters: Callable[[Fault], bool]) -> Fault | None:
        with self._lock:
            for fault in self._on:
                if fault.kind is kind and fault.is_due(operation) and matters(fault):
                    fault.count()
                    return fault
        return None
