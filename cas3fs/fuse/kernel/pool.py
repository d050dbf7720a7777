# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads that carry out requests which would hold up the reader."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Pool(Generic[Job]):
    """Carries out jobs in the order in which they come, in as many threads as are needed, up to a limit.

    Lock: `_lock` guards `_idle`; nothing is waited for under it. `submit` is for one thread, `close` for any.
    """

    def __init__(self, name: str, most_threads: int, carry_out: Callable[[Job], None]) -> None:
        """Begins without threads.

        Args:
            name: what the threads are called.
            most_threads: how many there are at most.
            carry_out: does a job, and raises nothing.
        """
        self._name = name
        self._most_threads = most_threads
        self._carry_out = carry_out
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._lock = threading.Lock()

    def submit(self, job: Job) -> None:
        """Has `job` carried out."""
        with self._lock:
            needs_thread = self._idle <= self._jobs.qsize() and len(self._threads) < self._most_threads
        self._jobs.put(job)
        if needs_thread:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Lets each thread end when it has done what it is at, and whatever is left in the queue."""
        for _thread in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            job = self._jobs.get()
            with self._lock:
                self._idle -= 1
            if job is None:
                return
            self._carry_out(job)
