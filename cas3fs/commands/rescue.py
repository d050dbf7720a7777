# SPDX-License-Identifier: GPL-3.0-or-later
"""Saving what only a state directory has: files that were written under a claim that is no longer in force.

A file is saved if staging has data of it, or if it differs in contents, attributes or name from the last snapshot that
its writer published: what was stored in packs but never published counts as well. Of a folder that was moved everything
is saved. Deletions are not reported. The state directory is only read: databases are copied, and the files of staging
are linked to, in a temporary folder. Damaged records of staging, and their data, are saved as they are, in a folder of
their own.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from cas3fs.config import StoreSettings, WriterSettings
from cas3fs.control import MountRecord, Progress
from cas3fs.entries.kinds import EpochEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import EpochHistory
from cas3fs.errors import IndexCorrupt, SnapshotError, StateInUse, UsageError
from cas3fs.export import Exporter, ExportResult
from cas3fs.filesystem import ROOT, FileSystem
from cas3fs.filesystem.state.quarantine import Quarantine, copy_quarantine, quarantine_folder
from cas3fs.filesystem.state.recovery import is_layer_file
from cas3fs.index import Index, migrations
from cas3fs.index.reader import Differences, differences
from cas3fs.index.salvage import open_or_salvage
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.values import LARGEST_SEQUENCE, SnapshotNumber
from cas3fs.volume.comparison import CLAIM, LineageRecord
from cas3fs.volume.loading import StoredVolume, open_volume
from cas3fs.volume.location import read_location
from cas3fs.volume.state_directory import StateDirectory
from cas3fs.volume.wiring import wire

INDEX_NAME = "index.sqlite"
_RECORDS_NAME = "staging.sqlite"
_ASIDE = "cas3fs-aside"
_log = logging.getLogger(__name__)


def choose_state_directory(folder: Path) -> Path:
    """The folder in which an index lies: `folder` itself, or the one volume's below it.

    Raises:
        UsageError: there is none, or more than one.
    """
    if any((folder / name).exists() for name in (INDEX_NAME, _RECORDS_NAME)):
        return folder
    found = sorted(path.parent for path in folder.glob(f"*/{INDEX_NAME}"))
    if not found:
        raise UsageError(f"{folder} holds no index of a volume, nor does a folder in it")
    if len(found) > 1:
        raise UsageError(f"{folder} holds several volumes; name one of {', '.join(map(str, found))}")
    return found[0]


def find_url(state: Path) -> str | None:
    """The URL of the volume that a state directory, or one set aside in it, belongs to; None where it is not known."""
    for folder in (state, state.parent.parent):
        record = MountRecord.load(folder) or read_location(folder)
        if record is not None:
            return record.url
    return None


def find_endpoint(state: Path) -> str | None:
    """The endpoint of that volume's store, if the folder records it."""
    for folder in (state, state.parent.parent):
        place = read_location(folder)
        if place is not None:
            return place.endpoint or None
    return None


def rescue(settings: StoreSettings, state: Path, destination: Path, progress: Progress) -> dict[str, Any]:
    """Copies what only `state` has into the folder `destination`, under the paths of the volume; gives a report.

    Raises:
        StateInUse: a process works with the state directory.
        UsageError: the destination is not empty.
        StoreError, IndexDatabaseError, OSError: store, state directory or destination cannot be used.
    """
    if destination.exists() and any(destination.iterdir()):
        raise UsageError(f"{destination} is not empty")
    destination.mkdir(parents=True, exist_ok=True)
    with ExitStack() as resources:
        resources.enter_context(closing(_locked(state)))
        opened = resources.enter_context(closing(open_volume(settings, Metrics())))
        store = opened.store
        scratch = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="cas3fs-rescue-")))
        _copy_staging(state, scratch)
        if why := _copy_index(state, scratch):
            return _save_nameless(why, settings, state, scratch, destination)
        found, base = _changed(store, scratch, progress)
        with _reading(opened, scratch) as filesystem:
            staged = set(filesystem.staging.files)
            exporter = Exporter(filesystem, lambda files, done: progress({"what": "rescuing", "done": done}))
            exporter.copy_wanted(ROOT, destination, found.changed | staged, found.moved)
        epoch = _overruled(store, scratch)
        aside = _save_aside(state, scratch, destination)
    return _report(exporter.result, base, len(staged)) | {"url": settings.url, "overruled_epoch": epoch, "aside": aside}


def _save_aside(state: Path, scratch: Path, destination: Path) -> str | None:
    """Save what was set aside of staging, by a mount or just now; return the folder, None where there is nothing."""
    folder = destination / _ASIDE
    if folder.exists():  # a file of the volume
        folder = destination / f"{_ASIDE}.{time.time_ns()}"
    saved = sum(copy_quarantine(one / "staging", folder) for one in (state, scratch))
    return str(folder) if saved else None


def _locked(state: Path) -> StateDirectory:
    try:
        return StateDirectory(state)
    except StateInUse as error:
        raise StateInUse(f"{state} is in use by a mount; what it has is saved once it is unmounted") from error


def _report(result: ExportResult, base: str | None, staged: int) -> dict[str, Any]:
    return {
        "files": result.files,
        "bytes": result.size_bytes,
        "staged_files": staged,
        "since_snapshot": base,
        "problems": result.problems,
    }


def _copy_index(state: Path, scratch: Path) -> str:
    """Copies the index; why it cannot be used, where it cannot."""
    if not (state / INDEX_NAME).exists():
        return f"{state} has no index"
    try:
        with Index.open(state / INDEX_NAME, read_only=True) as index:
            index.copy_to(scratch / INDEX_NAME)
        migrations.upgrade(scratch / INDEX_NAME)
    except IndexCorrupt as error:
        return str(error)
    return ""


def _save_nameless(why: str, settings: StoreSettings, state: Path, scratch: Path, destination: Path) -> dict[str, Any]:
    """Save staged data without names, where there is no usable index."""
    aside = Quarantine(scratch / "staging")
    with open_or_salvage(scratch / _RECORDS_NAME, aside.folder) as rows:
        staged = 0
        for row in rows.rows():
            aside.keep(row, "there is no index with the name of the file")
            staged += 1
    for path in (scratch / "staging").iterdir():
        if path.is_symlink() and is_layer_file(path):
            aside.move(path)
    folder = _save_aside(state, scratch, destination)
    result = ExportResult()
    result.problems.append(f"{why}, so no file has its name; " + _kept(folder))
    return _report(result, None, staged) | {"url": settings.url, "overruled_epoch": None, "aside": folder}


def _kept(folder: str | None) -> str:
    return f"what is staged is in {folder}, by the numbers of inodes" if folder else "nothing is staged"


def _copy_staging(state: Path, scratch: Path) -> None:
    for name in (_RECORDS_NAME, f"{_RECORDS_NAME}-wal"):
        if (state / name).exists():
            shutil.copyfile(state / name, scratch / name)
    (scratch / "staging").mkdir()
    for path in (state / "staging").iterdir() if (state / "staging").is_dir() else ():
        if path.is_file():
            (scratch / "staging" / path.name).symlink_to(path.absolute())


def _changed(store: ObjectStore, scratch: Path, progress: Progress) -> tuple[Differences, str | None]:
    """What differs from the last snapshot of this line, and that snapshot's id."""
    archive = SnapshotArchive(Shelf(store))
    with Index.open(scratch / INDEX_NAME) as index:
        base = _base(archive, LineageRecord.read(index))
    older = scratch / "older.sqlite"
    if base is None:
        Index.open(older, create=True).close()
    else:
        archive.restore(base, older, lambda done, total: progress({"what": "comparing", "done": done, "total": total}))
        migrations.upgrade(older)
    return differences(scratch / INDEX_NAME, older), base


def _base(archive: SnapshotArchive, record: LineageRecord) -> str | None:
    """The newest snapshot of the lineage that the index knows."""
    diverged, limit = archive.diverged(), record.limit or _limit_of_epoch(archive, record)
    known = [one for one in archive.ids() if one not in diverged and SnapshotNumber.parse(one) <= limit]
    if not known and record.published is not None:
        raise SnapshotError(
            f"snapshot {record.published}, from which this state continued, is gone with all before it, so what has "
            "changed since cannot be determined"
        )
    return known[-1] if known else None


def _limit_of_epoch(archive: SnapshotArchive, record: LineageRecord) -> SnapshotNumber:
    """The greatest number in the claim's epoch: more is not known of an index that an earlier version wrote."""
    epochs = [entry.epoch for entry in archive.shelf.load_all(EpochEntry) if str(entry.claim) == record.claim]
    started = 0 if record.published is None else SnapshotNumber.parse(record.published).epoch
    return SnapshotNumber(max(epochs, default=started), LARGEST_SEQUENCE)


def _overruled(store: ObjectStore, scratch: Path) -> int | None:
    """The epoch under which the state was written, if it was taken over and is not released."""
    with Index.open(scratch / INDEX_NAME, read_only=True) as index:
        claim = index.state.get(CLAIM)
    past = EpochHistory(Shelf(store)).recent(0)
    return next((one.entry.epoch for one in past if str(one.entry.claim) == claim), None)


@contextmanager
def _reading(volume: StoredVolume, scratch: Path) -> Iterator[FileSystem]:
    """A file system over the copied state, with what is staged taken up; nothing is stored."""
    with (
        closing(Index.open(scratch / INDEX_NAME)) as index,
        closing(open_or_salvage(scratch / "staging.sqlite", quarantine_folder(scratch / "staging"))) as rows,
    ):
        wired = wire(
            volume.entry,
            volume.store,
            index,
            rows,
            staging_dir=scratch / "staging",
            cache_dir=scratch / "cache",
            epoch=0,
            settings=WriterSettings(cache_size_bytes=0),
            metrics=Metrics(),
            keys=volume.object_keys,
        )
        with closing(wired.filesystem) as filesystem:
            filesystem.recover_staging()
            yield filesystem
