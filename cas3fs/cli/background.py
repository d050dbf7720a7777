# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in the background: a child process in a session of its own, which reports to the parent until it has started.

The child is forked before any thread exists. It reports through a pipe, by lines of JSON: any number of ``{"progress":
{...}}``, ``{"notice": "..."}`` (what it logs as a warning) and ``{"ask": "..."}`` (it needs a passphrase, and has no
terminal: the parent asks, and answers through a second pipe), then ``{}`` when it serves, or ``{"error": {"type": ...,
"message": ...}}``; an end without a report is an error, too. Then it has no terminal and no standard streams.
"""

import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import IO, Any, BinaryIO, NoReturn

import click

from cas3fs import errors
from cas3fs.cli.printable import system_error
from cas3fs.cli.progress import progress_bar
from cas3fs.errors import Cas3fsError, MountError

_PROGRESS_INTERVAL_S = 0.1


class Ready:
    """The work calls this once, when it serves; until then it reports its progress through it."""

    def __init__(
        self,
        serves: Callable[[], None],
        progress: Callable[[dict[str, Any]], None],
        ask: Callable[[str], str] | None = None,
    ) -> None:
        self._serves = serves
        self._progress = progress
        self.ask = ask
        """Asks for a passphrase at the terminal, in place of the process that does the work; None: that can itself."""
        self._last_sent_s = 0.0

    def __call__(self) -> None:
        self._serves()

    def progress(self, message: dict[str, Any]) -> None:
        """Show ``{"what": text, "done": bytes, "total": bytes}``, not too often."""
        now_s = time.monotonic()
        if now_s - self._last_sent_s > _PROGRESS_INTERVAL_S:
            self._last_sent_s = now_s
            self._progress(message)


Work = Callable[[Ready], int]
"""Returns an exit status."""


def run_in_foreground(work: Work, verbose: bool) -> int:
    """Run `work` here, with the log on standard error."""
    from cas3fs.cli.common import log_to_stderr

    log_to_stderr(verbose)
    return work(Ready(lambda: click.echo("cas3fs: mounted", err=True), lambda _: None))


def run_in_background(work: Work) -> int:
    """Run `work` in a child, and return 0 when it serves.

    Raises:
        Cas3fsError: what kept the child from serving.
    """
    reading, writing = os.pipe()
    answers, answering = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.close(answering)
        _run_child(work, writing, answers)
    os.close(writing)
    os.close(answers)
    try:
        with os.fdopen(reading, "rb") as pipe, os.fdopen(answering, "wb", buffering=0) as answering_pipe:
            told = _show_progress(pipe, answering_pipe)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise
    if told != b"{}\n":
        os.waitpid(child, 0)
        raise _read_error(told)
    return 0


def _show_progress(pipe: BinaryIO, answers: IO[bytes]) -> bytes:
    """Show what the child reports, and answer what it asks; return its last line."""
    from cas3fs.cli.common import ask_passphrase

    with progress_bar("opening") as show:
        for line in pipe:
            told = json.loads(line)
            if "progress" in told:
                show(told["progress"])
            elif "ask" in told:
                answers.write(json.dumps(ask_passphrase(told["ask"])).encode() + b"\n")
            elif "notice" in told:
                click.echo(f"cas3fs: {told['notice']}", err=True)
            else:
                return line
    return b""


def _read_error(told: bytes) -> Cas3fsError:
    if not told:
        return MountError("the process of the mount ended before the mount could be used")
    error = json.loads(told)["error"]
    kind: type[Cas3fsError] = getattr(errors, error["type"], Cas3fsError)
    return kind(error["message"])


def _run_child(work: Work, pipe: int, answers: int) -> NoReturn:
    """The whole life of the child; never returns, so that nothing of the parent's runs twice."""
    status = 1
    try:
        os.setsid()
        notices = _Notices(pipe)
        logging.getLogger().addHandler(notices)

        def serves() -> None:
            logging.getLogger().removeHandler(notices)
            os.close(answers)
            _detach(pipe)

        def ask(question: str) -> str:
            _say(pipe, {"ask": question})
            with os.fdopen(os.dup(answers), "rb") as answering:
                return str(json.loads(answering.readline() or '""'))

        status = work(Ready(serves, lambda message: _say(pipe, {"progress": message}), ask))
    except Cas3fsError as error:
        _tell(pipe, type(error).__name__, str(error))
    except OSError as error:
        _tell(pipe, "Cas3fsError", system_error(error))
    except BaseException as error:  # noqa: BLE001 - there is nobody above; the parent prints it
        _tell(pipe, "Cas3fsError", f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _tell(pipe: int, kind: str, message: str) -> None:
    _say(pipe, {"error": {"type": kind, "message": message}})


def _say(pipe: int, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the parent has gone on; the log has the error
        os.write(pipe, json.dumps(message).encode() + b"\n")


class _Notices(logging.Handler):
    """Sends warnings to the parent, which prints them."""

    def __init__(self, pipe: int) -> None:
        super().__init__(logging.WARNING)
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        _say(self._pipe, {"notice": " ".join(record.getMessage().split())})


def _detach(pipe: int) -> None:
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    os.write(pipe, b"{}\n")
    os.close(pipe)
