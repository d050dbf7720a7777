# SPDX-License-Identifier: GPL-3.0-or-later
"""What a crash left, looked at: on the machine where it happened, and on one that has nothing but the store."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from cas3fs.commands.fsck import check_unmounted
from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.export import Exporter
from cas3fs.filesystem import ROOT
from cas3fs.volume.opening import open_view, open_writer

Facts = dict[str, tuple[Any, ...]]
"""By path: mode, owner, links, size, mtime and a hash of the content; times for files only."""


def ignore(_: object) -> None:
    """A report of progress that nobody reads."""


def places(folder: Path) -> LocalFolders:
    """The places of a machine whose folder that is."""
    return LocalFolders(folder / "s", folder / "c")


def facts_of(top: Path) -> Facts:
    """Everything that is to be seen of a tree."""
    found: Facts = {}
    for folder, _, files in os.walk(top):
        for path in [Path(folder), *(Path(folder, name) for name in files)]:
            status = path.lstat()
            seen: tuple[Any, ...] = (status.st_mode, status.st_uid, status.st_gid)
            if path != Path(folder):
                digest = hashlib.blake2b(path.read_bytes()).hexdigest()
                seen = (*seen, status.st_nlink, status.st_size, status.st_mtime_ns, digest)
            found[str(path.relative_to(top))] = seen
    return found


def findings(url: str, machine: LocalFolders, **args: Any) -> list[str]:
    """What ``cas3fs fsck`` finds; nothing is repaired."""
    told: list[str] = []

    def take(message: Any) -> None:
        if "finding" in message:
            told.append(str(message["finding"]))

    result = check_unmounted(StoreSettings(url), machine, args, take)
    assert result["status"] == 0 or told
    return told


def tree_of_store(
    url: str, machine: LocalFolders, out: Path, snapshot: str | None = None, problems: list[str] | None = None
) -> str | None:
    """Copies the newest snapshot's tree, or that of another, to `out`, with nothing but the store; gives its id.

    Nothing may be in the way, or it is added to `problems`.
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


def tree_of_machine(
    url: str, machine: LocalFolders, out: Path, *, take_over: bool = False, problems: list[str] | None = None
) -> None:
    """Opens the volume as its writer, copies the tree to `out`, and publishes and releases it; `problems` as above."""
    volume = open_writer(StoreSettings(url), WriterSettings(cache_size_bytes=0, take_over=take_over), machine)
    try:
        volume.start(0)
        exporter = Exporter(volume.filesystem)
        exporter.copy(ROOT, out)
        assert problems is not None or exporter.result.problems == [], exporter.result.problems[:9]
        (problems if problems is not None else []).extend(exporter.result.problems)
        ignore(volume.finish())
    finally:
        volume.close()


def forget_places(state_dir: Path) -> None:
    """What stands for the disk of a machine lies elsewhere than that did; it belongs to the store beside it."""
    for record in (*state_dir.glob("*/place.json"), *state_dir.glob("*/mount.json")):
        record.unlink()


def copy_of(folder: Path, copy: Path) -> None:
    """Copies folders with what a crash left: no sockets."""
    shutil.copytree(folder, copy, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
