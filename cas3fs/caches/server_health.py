# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that may be down or slow, and must not cost those who read anything but once.

A server is *up* or *down*. It goes down at the first failure, and when the last `ANSWERS` all took longer than `slow_s`
(that some do is the fault of a busy machine as likely as the server's); then nobody asks it any more. A thread of the
cache, which lives only while some server is down, *probes* it after a pause, which doubles from one failed probe to the
next, and lets it up again when the probe succeeds. So an outage costs each thread that reads at most one timeout, and
readers never wait for a probe, a connection or a name server. Who was up only briefly pauses as long as before, and
longer.

Locks: the watch's condition guards what is due when; no probe runs under it. The flag `up` is read without a lock.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from cas3fs.metrics import Metrics

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_AFTER_S = 60.0
"""Who was up for so long begins with the shortest pause again."""
ANSWERS = 8

_log = logging.getLogger(__name__)

Clock = Callable[[], float]


class ServerHealth:
    """What is known of one server; `probe` asks it, and raises when it does not serve."""

    def __init__(
        self, title: str, probe: Callable[[], None], slow_s: float, watch: "HealthMonitor", metrics: Metrics
    ) -> None:
        self.title = title
        self.probe = probe
        self.up = False
        self.pause_s = 0.0
        self.up_since_s = 0.0
        self._slow_s = slow_s
        self._slow_answers = 0
        self._watch = watch
        self._outages = metrics.counter("cache.servers.outages")
        self._told = False

    def failed(self, error: BaseException) -> None:
        """Somebody asked in vain: nobody asks again until a probe succeeds."""
        if not self.up:
            return
        self.up = False
        self._outages.add()
        if not self._told:  # an administrator wants to know it once, not with every outage
            self._told = True
            _log.warning("the cache server %s does not serve and is left out for a while: %s", self.title, error)
        self._watch.went_down(self)

    def took(self, waited_s: float) -> None:
        """Somebody got an answer, after so long."""
        self._slow_answers = self._slow_answers + 1 if waited_s > self._slow_s else 0
        if self._slow_answers >= ANSWERS:
            self._slow_answers = 0
            self.failed(TimeoutError(f"its answers take more than {self._slow_s * 1000:.0f} ms"))


class HealthMonitor:
    """Probes the servers of one cache that are down, by one thread that ends when there are none."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._due: dict[ServerHealth, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def begin(self, servers: list[ServerHealth], wait_s: float) -> None:
        """Probe all for the first time, at once; returns when all are up, or after `wait_s`."""
        for server in servers:
            self._enter(server)
        deadline_s = self._clock() + wait_s
        with self._changed:
            while not all(server.up for server in servers) and (left_s := deadline_s - self._clock()) > 0:
                self._changed.wait(left_s)

    def went_down(self, server: ServerHealth) -> None:
        """Probe a server that was up, after its pause."""
        if self._clock() - server.up_since_s > STEADY_AFTER_S:
            server.pause_s = 0.0
        self._put_off(server)
        self._enter(server)

    def close(self) -> None:
        """Probe no more; a probe under way is waited for."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @staticmethod
    def _put_off(server: ServerHealth) -> None:
        server.pause_s = min(max(2 * server.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)

    def _enter(self, server: ServerHealth) -> None:
        with self._changed:
            if self._closed:
                return
            self._due[server] = self._clock() + server.pause_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cas3fs-cache-watch", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while (server := self._next()) is not None:
            with suppress(Exception):  # whatever it is, the server is not up yet
                server.probe()
                self._let_up(server)
                continue
            with self._changed:
                self._put_off(server)
                if server in self._due:
                    self._due[server] = self._clock() + server.pause_s

    def _next(self) -> ServerHealth | None:
        """The server to probe now, waiting until one is due; None when there are none left."""
        with self._changed:
            while self._due:
                server = min(self._due, key=lambda one: self._due[one])
                left_s = self._due[server] - self._clock()
                if left_s <= 0:
                    return server
                self._changed.wait(left_s)
            self._thread = None
            return None

    def _let_up(self, server: ServerHealth) -> None:
        with self._changed:
            if self._due.pop(server, None) is not None:
                server.up_since_s = self._clock()
                server.up = True
            self._changed.notify_all()
