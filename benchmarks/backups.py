# SPDX-License-Identifier: GPL-3.0-or-later
"""A real tree brought into encrypted storage, and back from it: cas3fs beside S3QL, restic and borg where installed.

Everything is in directories of one disk, encrypted with the ways that each program suggests: restic and borg with a
passphrase, borg with zstd-3, restic as it compresses by itself; S3QL with lzma, as shipped, and with zlib-6. *Stored*
means that the program has returned, or for a file system that it has said that all is in the store. *Back* means a copy
of the tree on the disk, without any local cache.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.encryption import EncryptedCas3fs
from benchmarks.lines import DIR
from benchmarks.results import Bound
from benchmarks.sources import Sources
from benchmarks.subjects import S3ql, drop_kernel_caches
from benchmarks.workloads.workload import seconds

FILES: Final = 22_000
_MIB: Final = 1 << 20
_PASSPHRASE: Final = "correct horse battery staple"


class BackupCost(NamedTuple):
    """Seconds until stored, seconds to get all back, and bytes in the store."""

    stored_s: float
    back_s: float
    size_bytes: int


class _Program(NamedTuple):
    """A program for backups: its commands, the first of which makes the repository, and what they use."""

    environment: Mapping[str, str]
    repository: Path
    cache: Path
    make: Sequence[str]
    store: Sequence[str]
    """Run in the tree."""
    restore: Sequence[str]
    """Run in the folder that gets the tree."""


class EncryptedS3ql(S3ql):
    """S3QL with a passphrase."""

    compression = "lzma"

    def make(self) -> None:
        authfile = self.folder / "authfile"
        authfile.write_text(f"[bench]\nstorage-url: {self.url}\nfs-passphrase: {_PASSPHRASE}\n")
        authfile.chmod(0o600)
        twice = f"{_PASSPHRASE}\n{_PASSPHRASE}\n"
        command = ["mkfs.s3ql", *self.options(), self.url]
        subprocess.run(command, input=twice, text=True, check=True, capture_output=True, env=self.environment())

    def command(self) -> list[str]:
        return ["mount.s3ql", "--fg", "--compress", self.compression, *self.options(), self.url, str(self.root)]


class ZlibS3ql(EncryptedS3ql):
    """The same with quicker compression."""

    compression = "zlib-6"


def measure(factor: float) -> Iterator[Bound]:
    """The cost in each program that is installed; cas3fs is to be ahead of each."""
    folder = Path(tempfile.mkdtemp(prefix="cas3fs-bench-"))
    sources = Sources(folder)
    try:
        tree = sources.tree(round(FILES * factor))
        ours = _mounted(folder, EncryptedCas3fs, tree)
        yield from _figures("cas3fs", ours)
        for name, run in _others(folder, tree).items():
            theirs = run()
            yield from _figures(name, theirs)
            for what, ratio in (
                ("until stored", theirs.stored_s / ours.stored_s),
                ("back", theirs.back_s / ours.back_s),
            ):
                least = 1.0 if factor >= 1 else None
                yield Bound("backups", f"{what}: faster than {name}", "times", ratio, at_least=least)
    finally:
        sources.close()
        shutil.rmtree(folder, ignore_errors=True)


def _others(folder: Path, tree: Path) -> Mapping[str, Callable[[], BackupCost]]:
    programs: dict[str, Callable[[], BackupCost]] = {}
    if shutil.which("restic"):
        programs["restic"] = lambda: _backed_up(folder, tree, _restic(folder))
    if shutil.which("borg"):
        programs["borg"] = lambda: _backed_up(folder, tree, _borg(folder))
    if shutil.which(S3ql.program):
        programs["S3QL with lzma"] = lambda: _mounted(folder, EncryptedS3ql, tree)
        programs["S3QL with zlib"] = lambda: _mounted(folder, ZlibS3ql, tree)
    return programs


def _figures(name: str, cost: BackupCost) -> Iterator[Bound]:
    yield Bound("backups", f"{name}: until stored", "s", cost.stored_s)
    yield Bound("backups", f"{name}: back", "s", cost.back_s)
    yield Bound("backups", f"{name}: size in the store", "MiB", cost.size_bytes / _MIB)


def _mounted(folder: Path, kind: type[EncryptedCas3fs] | type[EncryptedS3ql], tree: Path) -> BackupCost:
    subject = kind(folder / "subject", (), DIR)
    try:
        subject.start()
        stored_s = seconds(lambda: _copy(tree, subject.root / "tree")) + seconds(subject.settle)
        size_bytes = _size_of(subject.store)
        subject.forget()
        back_s = seconds(lambda: _copy(subject.root / "tree", folder / "back"))
    finally:
        subject.stop()
    shutil.rmtree(folder / "back")
    return BackupCost(stored_s, back_s, size_bytes)


def _backed_up(folder: Path, tree: Path, program: _Program) -> BackupCost:
    back = folder / "back"
    _run(program.environment, folder, *program.make)
    stored_s = seconds(lambda: _run(program.environment, tree, *program.store))
    size_bytes = _size_of(program.repository)
    _forget(program.cache)
    back.mkdir()
    back_s = seconds(lambda: _run(program.environment, back, *program.restore))
    shutil.rmtree(back)
    return BackupCost(stored_s, back_s, size_bytes)


def _restic(folder: Path) -> _Program:
    repository, cache = folder / "restic", folder / "restic-cache"
    return _Program(
        {"RESTIC_REPOSITORY": str(repository), "RESTIC_PASSWORD": _PASSPHRASE, "RESTIC_CACHE_DIR": str(cache)},
        repository,
        cache,
        make=("restic", "init"),
        store=("restic", "backup", "-q", "."),
        restore=("restic", "restore", "-q", "latest", "-t", "."),
    )


def _borg(folder: Path) -> _Program:
    repository, base = folder / "borg", folder / "borg-base"
    return _Program(
        {"BORG_REPO": str(repository), "BORG_PASSPHRASE": _PASSPHRASE, "BORG_BASE_DIR": str(base)},
        repository,
        base / ".cache",
        make=("borg", "init", "-e", "repokey-blake2"),
        store=("borg", "create", "-C", "zstd,3", "::one", "."),
        restore=("borg", "extract", "::one"),
    )


def _run(environment: Mapping[str, str], folder: Path, *command: str) -> None:
    subprocess.run(command, env=os.environ | environment, cwd=folder, check=True, capture_output=True)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)


def _forget(cache: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    drop_kernel_caches()


def _size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
