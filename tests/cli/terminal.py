# SPDX-License-Identifier: GPL-3.0-or-later
"""A program at a pseudo-terminal, to which a test types what the program asks for."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

TIMEOUT_S = 60


class Terminal:
    """``cas3fs`` at a terminal of its own; ends with its ``with``."""

    def __init__(self, *words: str, environment: Mapping[str, str] = os.environ) -> None:
        self._master, slave = os.openpty()
        self.shown = ""
        """Everything that the terminal has shown."""
        self._read = 0
        try:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", sys.executable, "-m", "cas3fs", *words],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=environment,
            )
        finally:
            os.close(slave)

    def expect(self, text: str) -> None:
        """Wait until the terminal shows a text, after what was expected before."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while (found := self.shown.find(text, self._read)) < 0:
            assert self._receive(deadline_s), f"the program ended; the terminal shows no {text!r}: {self.shown!r}"
        self._read = found + len(text)

    def enter(self, line: str) -> None:
        """Type a line, or a control character."""
        os.write(self._master, line.encode())

    def answer(self, question: str, line: str) -> None:
        """Wait for a question, and type a line."""
        self.expect(question)
        self.enter(line + "\n")

    def wait(self) -> int:
        """The exit status of the program, when it has ended."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while self._receive(deadline_s):
            pass
        return self.process.wait(TIMEOUT_S)

    def _receive(self, deadline_s: float) -> bool:
        """Read what is there; False when no program has the terminal open any more."""
        ready, _, _ = select.select([self._master], [], [], max(deadline_s - time.monotonic(), 0))
        assert ready, f"the program neither ends nor shows more than {self.shown!r}"
        with suppress(OSError):  # EIO: the last program has closed it
            if data := os.read(self._master, 4096):
                self.shown += data.decode(errors="replace")
                return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._master)
        self.process.kill()
        self.process.wait()
