# SPDX-License-Identifier: GPL-3.0-or-later
"""The health of cache servers: a server that is down or slow delays each reader once at most.

A server is *up* or *down*. It goes down at the first failure, and when its last `SLOW_RESPONSES` responses all took
longer than `slow_s` (fewer slow responses may be the fault of a busy local machine). While it is down, readers do not
ask it. A thread *probes* it after a pause that doubles with each failed probe, and a successful probe puts it up again.
So an outage costs each reading thread one timeout at most, and readers never wait for a probe, a connection attempt or
a name server. A server that was up only briefly keeps the length of its last pause, and doubles it.

Locks: the monitor's condition guards the times of the next probes; no probe runs under it. The flag `up` is read
without a lock.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from cas3fs.metrics import Metrics

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STABLE_AFTER_S = 60.0
"""A server that was up for so long begins with the shortest pause again."""
SLOW_RESPONSES = 8

_log = logging.getLogger(__name__)

Clock = Callable[[], float]


class ServerHealth:
    """The state of one server; `probe` contacts it, and raises when it does not work."""

    def __init__(
        self, title: str, probe: Callable[[], None], slow_s: float, monitor: "HealthMonitor", metrics: Metrics
    ) -> None:
        self.title = title
        self.probe = probe
        self.up = False
        self.pause_s = 0.0
        self.up_since_s = 0.0
        self._slow_s = slow_s
        self._slow_responses = 0
        self._monitor = monitor
        self._outages = metrics.counter("cache.servers.outages")
        self._is_logged = False

    def record_failure(self, error: BaseException) -> None:
        """Take the server down after a failed request, until a probe succeeds."""
        if not self.up:
            return
        self.up = False
        self._outages.add()
        if not self._is_logged:  # once for each server, not for each outage
            self._is_logged = True
            _log.warning("cache server %s does not respond and is skipped for a while: %s", self.title, error)
        self._monitor.schedule_probe(self)

    def record_response(self, waited_s: float) -> None:
        """Record how long a response took; take the server down if the last ones were all slow."""
        self._slow_responses = self._slow_responses + 1 if waited_s > self._slow_s else 0
        if self._slow_responses >= SLOW_RESPONSES:
            self._slow_responses = 0
            self.record_failure(TimeoutError(f"its responses take more than {self._slow_s * 1000:.0f} ms"))


class HealthMonitor:
    """Probes the servers of one cache that are down, in one thread that runs only while there are any."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._due: dict[ServerHealth, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self, servers: list[ServerHealth], wait_s: float) -> None:
        """Probe all servers for the first time; return when all are up, or after `wait_s`."""
        for server in servers:
            self._schedule(server)
        deadline_s = self._clock() + wait_s
        with self._changed:
            while not all(server.up for server in servers) and (left_s := deadline_s - self._clock()) > 0:
                self._changed.wait(left_s)

    def schedule_probe(self, server: ServerHealth) -> None:
        """Probe a server that has just gone down, after its pause."""
        if self._clock() - server.up_since_s > STABLE_AFTER_S:
            server.pause_s = 0.0
        self._lengthen_pause(server)
        self._schedule(server)

    def close(self) -> None:
        """End probing; wait for the probe that is running."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @staticmethod
    def _lengthen_pause(server: ServerHealth) -> None:
        server.pause_s = min(max(2 * server.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)

    def _schedule(self, server: ServerHealth) -> None:
        with self._changed:
            if self._closed:
                return
            self._due[server] = self._clock() + server.pause_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cas3fs-cache-health", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while (server := self._next()) is not None:
            with suppress(Exception):  # any failure means that the server is not up yet
                server.probe()
                self._mark_up(server)
                continue
            with self._changed:
                self._lengthen_pause(server)
                if server in self._due:
                    self._due[server] = self._clock() + server.pause_s

    def _next(self) -> ServerHealth | None:
        """Wait until a server is due, and return it; None when no servers are left."""
        with self._changed:
            while self._due:
                server = min(self._due, key=lambda one: self._due[one])
                left_s = self._due[server] - self._clock()
                if left_s <= 0:
                    return server
                self._changed.wait(left_s)
            self._thread = None
            return None

    def _mark_up(self, server: ServerHealth) -> None:
        with self._changed:
            if self._due.pop(server, None) is not None:
                server.up_since_s = self._clock()
                server.up = True
            self._changed.notify_all()
