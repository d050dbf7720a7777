# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving up requests that change something, while they only wait.

When a program is killed, the answer to what it waits for is of no use. A request that changes nothing is answered at
once, whatever it is at. One that changes something may not go on after its reply, since it would change what others
have written meanwhile. So it says when it *pauses*: it waits, and has nothing under way. Given up in a pause, it ends
there, by an exception.
"""

import threading
from types import TracebackType


class GivenUp(InterruptedError):
    """The request was given up while it paused, so nothing may be changed for it any more."""


class Pauses:
    """Of one request; a call makes the context of a pause."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_pausing = False
        self._is_over = False

    def __call__(self) -> "Pauses":
        return self

    def __enter__(self) -> None:
        """Begins a pause.

        Raises:
            GivenUp: the request was given up in an earlier one.
        """
        with self._lock:
            self._check()
            self._is_pausing = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the pause.

        Raises:
            GivenUp: the request was given up.
        """
        with self._lock:
            self._is_pausing = False
            self._check()

    def _check(self) -> None:
        if self._is_over:
            raise GivenUp

    def give_up(self) -> bool:
        """Gives the request up if it pauses; returns whether it does."""
        with self._lock:
            self._is_over = self._is_over or self._is_pausing
            return self._is_over
