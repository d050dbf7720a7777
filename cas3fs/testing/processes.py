# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests do to the process of a server."""

import signal
import subprocess
import time
from pathlib import Path


class ServerProcess:
    """A server that runs as a process."""

    process: "subprocess.Popen[bytes]"

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP): the kernel takes connections, and nothing answers once this returns."""
        self.process.send_signal(signal.SIGSTOP)
        while any(_state(task) not in "TZX" for task in Path(f"/proc/{self.process.pid}/task").iterdir()):
            time.sleep(0.001)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL), and wait until it is gone; fine when it is gone already."""
        self.process.kill()
        self.process.wait()


def _state(task: Path) -> str:
    """The letter for what a thread is doing; X for one that has ended."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
