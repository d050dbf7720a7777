# SPDX-License-Identifier: GPL-3.0-or-later
"""A progress bar on the terminal, for long work; nothing where standard error is not a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cas3fs.control import Progress


@contextmanager
def progress_bar(title: str, *, rate: bool = False) -> Iterator[Progress]:
    """A callable that takes reports ``{"done": bytes, "total": bytes, "what": text}`` and shows them, with `rate` also
    the bytes per second."""
    if not sys.stderr.isatty():
        yield _ignore
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        *((progress.TransferSpeedColumn(),) if rate else ()),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def show(report: dict[str, Any]) -> None:
            bar.update(task, completed=report.get("done", 0), total=report.get("total") or None)
            if "what" in report:
                bar.update(task, description=str(report["what"]))

        yield show


def _ignore(_report: dict[str, Any]) -> None:
    pass
