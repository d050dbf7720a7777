# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that goes on behind the command: a child process in a session of its own, of which the parent learns how it
began.

The child is forked before any thread exists. It reports once through a pipe, one line of JSON: ``{}`` when it serves,
or ``{"error": {"type": ..., "message": ...}}``; its end without a word is an error, too. Having served, it has no
terminal and no standard streams.
"""

import contextlib
import json
import os
import signal
from collections.abc import Callable
from typing import NoReturn

import click

from cas3fs import errors
from cas3fs.errors import Cas3fsError, MountError

Ready = Callable[[], None]
"""To be called once, when the work serves."""
Work = Callable[[Ready], int]
"""Gives an exit status."""


def in_foreground(work: Work, verbose: bool) -> int:
    """Runs `work` here, with the log on standard error."""
    from cas3fs.cli.common import log_to_stderr

    log_to_stderr(verbose)
    return work(lambda: click.echo("cas3fs: mounted", err=True))


def in_background(work: Work) -> int:
    """Runs `work` in a child, and returns 0 when it serves.

    Raises:
        Cas3fsError: what kept the child from serving.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_child(work, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.readline()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise
    if told != b"{}\n":
        os.waitpid(child, 0)
        raise _told_error(told)
    return 0


def _told_error(told: bytes) -> Cas3fsError:
    if not told:
        return MountError("the process of the mount ended before it served")
    error = json.loads(told)["error"]
    kind: type[Cas3fsError] = getattr(errors, error["type"], Cas3fsError)
    return kind(error["message"])


def _run_child(work: Work, pipe: int) -> NoReturn:
    """The whole life of the child; never returns, so that nothing of the parent's runs twice."""
    status = 1
    try:
        os.setsid()
        status = work(lambda: _detach(pipe))
    except Cas3fsError as error:
        _tell(pipe, type(error).__name__, str(error))
    except BaseException as error:  # noqa: BLE001 - there is nobody above; the parent prints it
        _tell(pipe, "Cas3fsError", f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _tell(pipe: int, kind: str, message: str) -> None:
    line = json.dumps({"error": {"type": kind, "message": message}}) + "\n"
    with contextlib.suppress(OSError):  # it was told already that the mount serves; the log has the error
        os.write(pipe, line.encode())


def _detach(pipe: int) -> None:
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    os.write(pipe, b"{}\n")
    os.close(pipe)
