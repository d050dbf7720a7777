# SPDX-License-Identifier: GPL-3.0-or-later
"""Inspects what a crash left: on the machine where it happened, and on one that has only the store."""

import hashlib
import os
from pathlib import Path
from typing import Any

from cas3fs.commands.fsck import check_unmounted
from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.control.messages.maintenance import FsckRequest
from cas3fs.export import Exporter
from cas3fs.filesystem import ROOT
from cas3fs.volume.opening import open_view, open_writer

TreeState = dict[str, tuple[Any, ...]]
"""By path: mode, owner, links, size, mtime and a hash of the content; times for files only."""


def folders_of(folder: Path) -> LocalFolders:
    """The state and cache folders of the machine in `folder`."""
    return LocalFolders(folder / "s", folder / "c")


def read_tree(top: Path) -> TreeState:
    """Read everything that is visible of a tree."""
    found: TreeState = {}
    for folder, _, files in os.walk(top):
        for path in [Path(folder), *(Path(folder, name) for name in files)]:
            status = path.lstat()
            seen: tuple[Any, ...] = (status.st_mode, status.st_uid, status.st_gid)
            if path != Path(folder):
                digest = hashlib.blake2b(path.read_bytes()).hexdigest()
                seen = (*seen, status.st_nlink, status.st_size, status.st_mtime_ns, digest)
            found[str(path.relative_to(top))] = seen
    return found


def fsck_findings(url: str, machine: LocalFolders, **args: Any) -> list[str]:
    """The findings of ``cas3fs fsck``; nothing is repaired."""
    found: list[str] = []

    def take(message: Any) -> None:
        if "finding" in message:
            found.append(str(message["finding"]))

    result = check_unmounted(StoreSettings(url), machine, FsckRequest(**args), take)
    assert result.status == 0 or found
    return found


def export_from_store(
    url: str, machine: LocalFolders, out: Path, snapshot: str | None = None, problems: list[str] | None = None
) -> str | None:
    """Copy the tree of the newest snapshot, or of another, to `out`, with only the store; returns its id.

    Fails if there is a problem, unless `problems` is given, to which it is added.
    """
    view = open_view(StoreSettings(url), WriterSettings(read_only=True, cache_size_bytes=0, snapshot=snapshot), machine)
    try:
        exporter = Exporter(view.filesystem)
        exporter.copy(ROOT, out)
        assert problems is not None or exporter.result.problems == [], exporter.result.problems[:9]
        (problems if problems is not None else []).extend(exporter.result.problems)
        return view.shown
    finally:
        view.close()


def export_as_writer(
    url: str, machine: LocalFolders, out: Path, *, take_over: bool = False, problems: list[str] | None = None
) -> None:
    """Open the volume as its writer, copy the tree to `out`, publish and release; `problems` as above."""
    volume = open_writer(StoreSettings(url), WriterSettings(cache_size_bytes=0, take_over=take_over), machine)
    try:
        volume.start(0)
        exporter = Exporter(volume.filesystem)
        exporter.copy(ROOT, out)
        assert problems is not None or exporter.result.problems == [], exporter.result.problems[:9]
        (problems if problems is not None else []).extend(exporter.result.problems)
        volume.finish()
    finally:
        volume.close()


def forget_location(state_dir: Path) -> None:
    """Remove the records of where the state directory was: the copy of a disk belongs to the store beside it."""
    for record in (*state_dir.glob("*/place.json"), *state_dir.glob("*/mount.json")):
        record.unlink()
