# SPDX-License-Identifier: GPL-3.0-or-later
"""What encryption costs: the same work in a plain and in an encrypted volume, in turns, as ratios of their speed.

Both volumes are in directories of the same disk. Each step is repeated, and the medians are compared. A key file opens
the encrypted volume, so the derivation of a key from a passphrase is not part of any figure.
"""

import os
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks.lines import DIR
from benchmarks.results import Bound
from benchmarks.snapshots import SnapshotVolume, seconds
from benchmarks.subjects import Cas3fs
from benchmarks.workloads.workload import copy_synced, read_all, shell, write_files
from cas3fs.config import SecretSettings

LEAST: Final[Mapping[str, float]] = MappingProxyType(
    {
        "1 GiB until stored": 0.85,
        "1 GiB read, cold": 0.85,
        "10,000 files of 4 KiB until stored": 0.9,
        "10,000 files of 4 KiB read, cold": 0.9,
        "snapshot of 1,000,000 files": 0.8,
    }
)
"""The least speed in relation to a plain volume."""
MOUNT_MORE_S: Final = 0.1
_MIB: Final = 1 << 20
_TURNS: Final = 3


class EncryptedCas3fs(Cas3fs):
    """A volume that a key file opens."""

    @property
    def key_file(self) -> Path:
        """The file with the key."""
        return self.folder / "key"

    def make(self) -> None:
        self.key_file.write_bytes(os.urandom(32))
        self.run("mkfs", "--encrypt", self.url)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "CAS3FS_KEY_FILE": str(self.key_file)}


def measure(factor: float) -> Iterator[Bound]:
    """Compare both volumes; limits apply at full size only."""
    folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
    try:
        plain, encrypted = _work(folder, factor)
        for what, least in LEAST.items():
            if what in plain:
                ratio = plain[what] / encrypted[what]
                yield Bound("encryption", what, "of plain", ratio, at_least=least if factor >= 1 else None)
        more_s = encrypted["mount"] - plain["mount"]
        yield Bound("encryption", "mount: more than plain", "s", more_s, MOUNT_MORE_S if factor >= 1 else None)
        files = round(1_000_000 * factor)
        what = "snapshot of 1,000,000 files"
        ratio = _snapshot_s(folder / "p", files, None) / _snapshot_s(folder / "e", files, folder / "key")
        yield Bound("encryption", what, "of plain", ratio, at_least=LEAST[what] if factor >= 1 else None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _work(folder: Path, factor: float) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """The median seconds of each step, in a plain and in an encrypted volume."""
    source = folder / "source"
    source.write_bytes(os.urandom(round(1024 * _MIB * factor)))
    found: tuple[dict[str, list[float]], ...] = (defaultdict(list), defaultdict(list))
    for _ in range(_TURNS):
        for kind, times in zip((Cas3fs, EncryptedCas3fs), found, strict=True):
            subject = kind(folder / "subject", (), DIR)
            try:
                subject.start()
                for what, took_s in _steps(subject, source, round(10_000 * factor)):
                    times[what].append(took_s)
            finally:
                subject.stop()
    plain, encrypted = ({what: statistics.median(all_s) for what, all_s in times.items()} for times in found)
    return plain, encrypted


def _steps(subject: Cas3fs, source: Path, files: int) -> Iterator[tuple[str, float]]:
    large, small = subject.root / "large", subject.root / "small"
    yield "1 GiB until stored", copy_synced(source, large) + seconds(subject.settle)
    blob = os.urandom(4096 + files)
    yield (
        "10,000 files of 4 KiB until stored",
        seconds(lambda: write_files(small, files, blob)) + seconds(subject.settle),
    )
    yield "mount", subject.forget()
    yield "1 GiB read, cold", shell(f"cat {large}")
    subject.forget()
    yield "10,000 files of 4 KiB read, cold", shell(read_all(small))


def _snapshot_s(folder: Path, files: int, key_file: Path | None) -> float:
    """The seconds of the first snapshot of so many files."""
    folder.mkdir()
    secrets = SecretSettings(key_file=key_file)
    if key_file is not None:
        key_file.write_bytes(os.urandom(32))
        os.environ["CAS3FS_KEY_FILE"] = str(key_file)
    try:
        figures = measure_first(SnapshotVolume(folder, files, secrets))
    finally:
        os.environ.pop("CAS3FS_KEY_FILE", None)
    return figures


def measure_first(volume: SnapshotVolume) -> float:
    """The seconds of the first snapshot of a volume that is filled and mounted for it."""
    volume.fill()
    volume.mount()
    try:
        return seconds(lambda: volume.request("flush"))
    finally:
        volume.umount()
