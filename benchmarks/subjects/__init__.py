# SPDX-License-Identifier: GPL-3.0-or-later
"""The subjects: file systems that can be started empty, settled, remounted, made to forget local state, and stopped."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.lines import DIR, FAR, PLACES, S3
from benchmarks.subjects.cas3fs import Cas3fs
from benchmarks.subjects.mounted import Mounted, NullFileSystem
from benchmarks.subjects.peers import Peer, RcloneMount, S3fs, S3ql, installed
from benchmarks.subjects.subject import PlainDirectory, RequestCounter, Subject, drop_kernel_caches, peak_memory_kib

Make = Callable[[Path, Sequence[str]], Subject]
"""Makes a subject in a folder; ``cas3fs mount`` gets the options."""

__all__ = [
    "Cas3fs",
    "Make",
    "Mounted",
    "NullFileSystem",
    "Peer",
    "PlainDirectory",
    "RcloneMount",
    "RequestCounter",
    "S3fs",
    "S3ql",
    "Subject",
    "drop_kernel_caches",
    "installed",
    "peak_memory_kib",
    "subjects",
]


def subjects(peers: Sequence[type[Peer]]) -> Mapping[str, Make]:
    """All subjects by name; `peers` are those that are installed."""
    made: dict[str, Make] = {
        PlainDirectory.system: lambda folder, options: PlainDirectory(folder),
        NullFileSystem.system: NullFileSystem,
    }
    for place in PLACES:
        made[f"{Cas3fs.system}-{place}"] = _at(Cas3fs, place)
    for peer in peers:
        for place in PLACES if peer is S3ql else (S3, FAR):
            made[f"{peer.system}-{place}"] = _at(peer, place)
    return made


def _at(kind: type[Cas3fs] | type[Peer], place: str = DIR) -> Make:
    return lambda folder, options: kind(folder, options, place)
