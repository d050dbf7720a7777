# SPDX-License-Identifier: GPL-3.0-or-later
"""A real memcached for tests: the program of the system's package, on a free port of the loopback interface."""

import getpass
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cas3fs.errors import StoreUnreachable
from cas3fs.testing.ports import accepts, free_port
from cas3fs.testing.processes import ServerProcess

_START_DEADLINE_S: Final = 10
_PORT_ATTEMPTS: Final = 5


class MemcachedProcess(ServerProcess):
    """A running memcached."""

    def __init__(self, memory_mib: int, options: tuple[str, ...]) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self._memory_mib = memory_mib
        self._options = options

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port

    @property
    def spec(self) -> str:
        """As a cache of a mount."""
        return f"memcached://{self.host}:{self.port}"

    def start(self) -> None:
        """Start it, empty, at the port it had if it had one, and wait until it serves.

        Raises:
            StoreUnreachable: there is no memcached, or it does not come up.
        """
        program = shutil.which("memcached")
        if program is None:
            raise StoreUnreachable("there is no memcached: install the system's package of that name")
        fixed = self.port
        for _ in range(_PORT_ATTEMPTS):
            self.port = fixed or free_port()
            place = ["-l", self.host, "-p", str(self.port), "-U", "0", "-m", str(self._memory_mib)]
            self.process = subprocess.Popen(
                [program, *place, "-t", "2", "-u", getpass.getuser(), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            if self._serves():
                return
        raise StoreUnreachable("memcached does not start")

    def _serves(self) -> bool:
        deadline_s = time.monotonic() + _START_DEADLINE_S
        while self.process.poll() is None and time.monotonic() < deadline_s:
            if accepts(self.port) and self.process.poll() is None:
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def restart(self) -> None:
        """Kill it and start it again, empty, on the same port."""
        self.kill()
        self.start()


@contextmanager
def memcached(memory_mib: int = 64, *options: str) -> Iterator[MemcachedProcess]:
    """A memcached with so much memory, started with further `options`; gone at the end of the ``with``.

    Raises:
        StoreUnreachable: there is none, or it does not come up.
    """
    server = MemcachedProcess(memory_mib, options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
