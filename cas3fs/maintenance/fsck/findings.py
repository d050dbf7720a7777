# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings: what a check tells, by code; and what is done about each kind."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import attrs

ERROR, NOTE = "error", "note"
MAX_PATHS: Final = 50
"""Paths that a finding names; how many there are is always told."""


class FindingKind(NamedTuple):
    """What a code means: how bad it is, what it says, and how it is mended."""

    severity: str
    text: str
    repair: str


_LOST = (
    "looked for in other packs, caches and staging; else the range gives an I/O error until the file is copied in again"
)
_NOTED = "none: it is noted; in those snapshots its files give I/O errors"
_STORED_ANEW = "its manifest is put aside, and the newest state is stored again, as the next snapshot of a mount is"
KINDS: Final[Mapping[str, FindingKind]] = MappingProxyType(
    {
        "index-damaged": FindingKind(ERROR, "SQLite finds the index damaged", "the newest whole snapshot is restored"),
        "root-missing": FindingKind(ERROR, "there is no root directory", "it is made anew"),
        "root-named": FindingKind(ERROR, "the root directory has a name", "the name is removed"),
        "inode-without-name": FindingKind(ERROR, "an inode has no name", "it gets one in lost+found"),
        "name-without-inode": FindingKind(ERROR, "a name stands for nothing", "the name is removed"),
        "name-in-no-folder": FindingKind(ERROR, "a name lies in what is no folder", "it is moved to lost+found"),
        "folder-with-many-names": FindingKind(ERROR, "a folder has several names", "it keeps the oldest"),
        "unreachable": FindingKind(ERROR, "a folder contains itself", "it is moved to lost+found"),
        "wrong-link-count": FindingKind(ERROR, "a link count is wrong", "it is corrected"),
        "wrong-type": FindingKind(ERROR, "an inode is of no type", "it gets the type that its content shows"),
        "link-without-target": FindingKind(ERROR, "a symbolic link has no target", "it becomes an empty file"),
        "target-of-no-link": FindingKind(
            ERROR,
            "what is no symbolic link has a target",
            "it becomes one if it is an empty file; else a link with that target is made in lost+found",
        ),
        "chunks-of-no-file": FindingKind(
            ERROR, "what is no file has content", "the content goes to a file in lost+found"
        ),
        "content-without-inode": FindingKind(
            ERROR, "content belongs to no inode", "it becomes a file, perhaps in lost+found"
        ),
        "target-without-inode": FindingKind(
            ERROR, "a link's target belongs to no inode", "it becomes a link, perhaps in lost+found"
        ),
        "attribute-without-inode": FindingKind(
            ERROR, "an extended attribute belongs to no inode", "it is told and removed"
        ),
        "size-negative": FindingKind(ERROR, "a size is negative", "it is set to where the content ends"),
        "chunks-unlike-sums": FindingKind(
            ERROR,
            "the index has other chunks of a file than were entered",
            "the file is taken from the newest snapshot that has it whole; where none has, its holes give I/O errors",
        ),
        "chunk-impossible": FindingKind(
            ERROR, "a chunk has an impossible place or length", "its range gives an I/O error"
        ),
        "chunks-overlap": FindingKind(ERROR, "chunks of a file overlap", "the first is shortened"),
        "chunk-past-end": FindingKind(
            ERROR, "content lies beyond a file's end", "the size is set to where the content ends"
        ),
        "chunk-without-block": FindingKind(ERROR, "a chunk has no block", "its range gives an I/O error, never zeros"),
        "chunk-past-block": FindingKind(ERROR, "a chunk passes its block's end", "what it lacks gives an I/O error"),
        "block-without-pack": FindingKind(ERROR, "a block lies in no pack", _LOST),
        "block-out-of-pack": FindingKind(ERROR, "a block lies outside of its pack", _LOST),
        "pack-dead-but-used": FindingKind(ERROR, "a pack in use is said to be dead", "it is alive"),
        "pack-dead-before-born": FindingKind(
            ERROR, "a pack has died before it was born", "it dies with the next snapshot"
        ),
        "pack-born-in-future": FindingKind(
            ERROR, "a pack is born with no snapshot that could be", "it is taken to be old"
        ),
        "pack-missing": FindingKind(ERROR, "a pack is not in the store", _LOST),
        "pack-wrong-size": FindingKind(ERROR, "a pack's object has another size", f"its blocks are {_LOST}"),
        "snapshot-pack-missing": FindingKind(
            ERROR,
            "a pack that only snapshots need is not in the store",
            "written down: in them its files give I/O errors",
        ),
        "snapshot-pack-damaged": FindingKind(
            ERROR,
            "a pack has damaged blocks that only snapshots need",
            "written down: in them its files give I/O errors",
        ),
        "object-archived": FindingKind(
            ERROR, "an object lies in an archive, and cannot be read", "none: restore it there, and check again"
        ),
        "object-unknown": FindingKind(NOTE, "an object that nothing explains", "`cas3fs gc` removes what may go"),
        "epoch-damaged": FindingKind(
            ERROR,
            "the claim of an epoch cannot be read",
            "it is put aside, under damaged/, and one of an unknown writer takes its place",
        ),
        "base-damaged": FindingKind(
            ERROR,
            "what says where a take-over went on from cannot be read",
            "it is put aside, under damaged/, and written anew from what the snapshots tell",
        ),
        "snapshot-missing": FindingKind(
            ERROR,
            "a snapshot that nobody deleted is not in the store",
            "what it alone needs is given up; for the newest: where this machine has its state, that is stored again, "
            "else the newest whole one before it is restored",
        ),
        "snapshot-damaged": FindingKind(ERROR, "a manifest cannot be read", "it is put aside, under damaged/"),
        "pages-missing": FindingKind(ERROR, "a snapshot's pages are not in the store", _STORED_ANEW),
        "pages-wrong-size": FindingKind(ERROR, "a snapshot's pages have another size", _STORED_ANEW),
        "snapshot-unreadable": FindingKind(ERROR, "a snapshot's pages are damaged", "its manifest is put aside"),
        "staging-bytes-missing": FindingKind(
            ERROR,
            "bytes that wait for the store are missing",
            "the file keeps what was stored; the record is put aside",
        ),
        "staging-record-damaged": FindingKind(
            ERROR,
            "a record of bytes that wait for the store is damaged",
            "the file keeps what was stored; the record and its bytes are put aside, where `cas3fs rescue` finds them",
        ),
        "staging-damaged": FindingKind(
            ERROR,
            "the database of what waits for the store is damaged",
            "what can be read of it is taken over; it is put aside, where `cas3fs rescue` finds it",
        ),
        "staging-put-aside": FindingKind(
            NOTE,
            "records of bytes that wait for the store were damaged, and are put aside",
            "none: `cas3fs rescue` saves them; delete the file when nothing of it is missed",
        ),
        "staging-bytes-lost": FindingKind(
            NOTE,
            "the local disk has lost bytes that wait for the store",
            "none: reading them gives an I/O error until they are written again, and the file is not stored before",
        ),
        "block-damaged": FindingKind(ERROR, "a block's bytes are not what its hash names", _LOST),
        "known-loss": FindingKind(
            NOTE, "ranges of files are known to be lost", "copying such a file in again heals all that share its bytes"
        ),
        "known-snapshot-loss": FindingKind(NOTE, "files of snapshots are known to be lost in parts", "none"),
        "snapshot-put-aside": FindingKind(
            NOTE,
            "the manifest of a damaged snapshot was put aside",
            "none: delete the object when nothing of it is missed; until then gc keeps what it may need",
        ),
    }
)


@attrs.frozen
class Finding:
    """One thing that is wrong.

    touches: what it concerns, by name: inode, pack, block (in hex), snapshot, object.
    paths: files that it hurts, some of them; `path_count` says how many there are.
    ranges: (offset, length) in the file, where it is one file.
    lost: how many blocks could not be found anywhere by a repair.
    """

    code: str
    touches: Mapping[str, Any]
    detail: str = ""
    paths: tuple[str, ...] = ()
    path_count: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    repaired: bool = False
    lost: int = 0

    @property
    def kind(self) -> FindingKind:
        """What its code means."""
        return KINDS[self.code]

    @property
    def is_open(self) -> bool:
        """Whether something is still wrong."""
        return self.kind.severity == ERROR and not self.repaired

    @property
    def about(self) -> str:
        """What it touches, and what is to be said beside that."""
        touched = ", ".join(f"{name} {_text(value)}" for name, value in self.touches.items())
        return f"{touched}; {self.detail}" if self.detail else touched

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "code": self.code,
            "severity": self.kind.severity,
            "text": self.kind.text,
            "about": self.about,
            "detail": self.detail,
            "touches": {name: _plain(value) for name, value in self.touches.items()},
            "paths": list(self.paths),
            "path_count": self.path_count,
            "ranges": [list(one) for one in self.ranges],
            "repair": self.kind.repair,
            "repaired": self.repaired,
            "lost": self.lost,
        }


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) == 32 else repr(value)[1:]
    return str(value)


CLEAN, REPAIRED, UNREPAIRED, FAILED = 0, 1, 4, 8
"""Exit statuses, as fsck(8) has them."""


def status_of(findings: Iterable[Finding]) -> int:
    """The exit status that tells of these findings."""
    errors = [one for one in findings if one.kind.severity == ERROR]
    if any(one.is_open for one in errors):
        return UNREPAIRED
    return REPAIRED if errors else CLEAN
