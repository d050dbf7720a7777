# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that is killed at any step of taking a snapshot leaves only complete snapshots, and loses nothing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cas3fs.commands.mkfs import create_volume
from cas3fs.config import LocalFolders, StoreSettings, VolumeSettings, WriterSettings
from cas3fs.entries.shelf import Shelf
from cas3fs.export import Exporter
from cas3fs.filesystem import ROOT, Owner
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.testing.servers import S3Server, s3_client
from cas3fs.volume.opening import open_view, open_writer
from tests.encrypted import chosen, plain_store

SCRIPT = """
import os, signal, sys
from pathlib import Path
from cas3fs.volume import publisher
from cas3fs.volume.opening import OpenVolume, open_writer
from cas3fs.config import LocalFolders, StoreSettings, WriterSettings
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs import Epochs
from cas3fs.filesystem import ROOT, FileSystem, Owner
from cas3fs.objectstores.directory import DirectoryStore
from cas3fs.objectstores.s3 import S3Store
from cas3fs.snapshots.archive import SnapshotArchive

url, root, step = sys.argv[1:]
Store = DirectoryStore if url.startswith("file:") else S3Store


def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def die_before(owner, name, when=lambda *args, **kwargs: True):
    function = getattr(owner, name)
    setattr(owner, name, lambda *a, **k: (kill() if when(*a, **k) else None, function(*a, **k))[1])


def die_after(owner, name, when=lambda *args, **kwargs: True):
    function = getattr(owner, name)
    setattr(owner, name, lambda *a, **k: (function(*a, **k), kill() if when(*a, **k) else None)[0])


def key_in(folder):
    return lambda store, key, *rest, **more: key.startswith(folder)


volume = open_writer(
    StoreSettings(url), WriterSettings(cache_size_bytes=0), LocalFolders(Path(root, "s"), Path(root, "c"))
)
volume.start(0)
fs = volume.filesystem
for number in range(20):
    inode, handle = fs.create(ROOT, b"file %d" % number, 0o644, os.O_WRONLY, Owner())
    fs.write(handle, 0, b"content %d" % number * 1000)
    fs.release(handle)
fs.commit()
{
    "before the checkpoint": lambda: die_before(FileSystem, "checkpoint"),
    "after the checkpoint": lambda: die_after(FileSystem, "checkpoint"),
    "before the pages": lambda: die_before(Store, "put_if_absent", key_in("pages/")),
    # written, and not linked to its name yet
    "half the pages": lambda: die_before(DirectoryStore, "_link", lambda store, *names: names[-1].startswith("pages/")),
    "half the manifest": lambda: die_before(
        DirectoryStore, "_link", lambda store, *names: names[-1].startswith("snapshots/")
    ),
    "before the manifest": lambda: die_before(Store, "put_if_absent", key_in("snapshots/")),
    "after the manifest": lambda: die_after(Store, "put_if_absent", key_in("snapshots/")),
    "after the fence": lambda: die_after(SnapshotArchive, "create"),
    "before the release": lambda: die_before(Epochs, "release"),
    "after the release": lambda: die_after(Epochs, "release"),
    "before it is marked clean": lambda: die_before(OpenVolume, "close"),
}[step]()
volume.finish()
volume.close()
"""
STEPS = [
    "before the checkpoint",
    "after the checkpoint",
    "before the pages",
    "half the pages",
    "half the manifest",
    "before the manifest",
    "after the manifest",
    "after the fence",
    "before the release",
    "after the release",
    "before it is marked clean",
]
pytestmark = pytest.mark.usefixtures("encryption")
EXPECTED = {f"file {number}": f"content {number}".encode() * 1000 for number in range(20)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.promise("numbers-are-never-reused", "a-killed-snapshot-leaves-whole-ones")
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_during_a_snapshot_leaves_only_complete_ones(step: str, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    check(step, (tmp_path / "v").as_uri(), tmp_path)


@pytest.mark.parametrize("step", [step for step in STEPS if not step.startswith("half")])
@pytest.mark.parametrize("kind", ["moto", "rclone"])
def test_a_kill_during_a_snapshot_on_s3(
    step: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server: S3Server = request.getfixturevalue(f"{kind}_s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"crash-{kind}-{step.replace(' ', '-')}"
    client = s3_client(server)
    client.create_bucket(Bucket=bucket)
    client.close()
    check(step, f"s3://{bucket}/volume", tmp_path)


def check(step: str, url: str, tmp_path: Path) -> None:
    """Kill a process at that step, and check what it left."""
    settings = StoreSettings(url)
    create_volume(settings, chosen(VolumeSettings(allow_unfenced=True)))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, settings.url, tmp_path, step], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    archive = SnapshotArchive(Shelf(plain_store(settings)))
    found = archive.list()
    assert len(found) == (STEPS.index(step) > STEPS.index("before the manifest"))
    for info in found:
        assert contents(_extracted(settings, info.id, tmp_path)) == EXPECTED
    places = LocalFolders(tmp_path / "s", tmp_path / "c")
    volume = open_writer(settings, WriterSettings(cache_size_bytes=0), places)
    volume.start(0)
    _inode, handle = volume.filesystem.create(ROOT, b"later", 0o644, 1, Owner())
    volume.filesystem.release(handle)
    newest = volume.finish()
    volume.close()
    assert newest is not None
    assert contents(_extracted(settings, newest, tmp_path)) == EXPECTED | {"later": b""}


def _extracted(settings: StoreSettings, snapshot_id: str, root: Path) -> Path:
    """The tree of a snapshot, as read by a machine that has nothing of the volume."""
    reading = WriterSettings(read_only=True, cache_size_bytes=0, snapshot=snapshot_id)
    volume = open_view(settings, reading, LocalFolders(root / "other", root / "other-cache"))
    try:
        out = root / f"out-{snapshot_id}"
        exporter = Exporter(volume.filesystem)
        exporter.copy(ROOT, out)
        assert exporter.result.problems == []
        return out
    finally:
        volume.close()
