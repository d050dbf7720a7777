# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings: what a check reports, by code, and what a repair does about each kind.

The codes are a format: scripts depend on them. The texts are not.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import attrs

ERROR, NOTE = "error", "note"
MAX_PATHS: Final = 50
"""The most paths that a finding lists; it always says how many there are."""


class FindingKind(NamedTuple):
    """What a code means.

    Attributes:
        severity: `ERROR`, or `NOTE` where nothing has to be repaired.
        text: what is wrong.
        repair: what a repair does about it.
    """

    severity: str
    text: str
    repair: str


_SEARCHED = (
    "its blocks are searched for in other packs, the cache and staging; ranges of files whose blocks are not found "
    "give I/O errors until the files are copied in again"
)
_RECORDED = "none: it is recorded as lost; in those snapshots its ranges of files give I/O errors"
_STORED_AGAIN = "the manifest is moved to damaged/, and the next snapshot is stored whole"


def _error(text: str, repair: str) -> FindingKind:
    return FindingKind(ERROR, text, repair)


def _note(text: str, repair: str) -> FindingKind:
    return FindingKind(NOTE, text, repair)


KINDS: Final[Mapping[str, FindingKind]] = MappingProxyType(
    {
        "index-damaged": _error("SQLite finds the index damaged", "the newest intact snapshot is restored"),
        "root-missing": _error("the root directory is missing", "a new one is created"),
        "root-named": _error("the root directory has a name in a directory", "the name is removed"),
        "inode-without-name": _error("an inode has no name", "it gets a name in lost+found"),
        "name-without-inode": _error("a name refers to no inode", "the name is removed"),
        "name-in-no-folder": _error("the parent of a name is not a directory", "the name is moved to lost+found"),
        "folder-with-many-names": _error("a directory has several names", "it keeps the oldest one"),
        "unreachable": _error("a directory contains itself", "it is moved to lost+found"),
        "wrong-link-count": _error("a link count is wrong", "it is corrected"),
        "wrong-type": _error("an inode has no valid type", "it gets the type that its content shows"),
        "link-without-target": _error("a symbolic link has no target", "it becomes an empty file"),
        "target-of-no-link": _error(
            "an inode that is not a symbolic link has a link target",
            "an empty file becomes a symbolic link; otherwise a link with that target is created in lost+found",
        ),
        "chunks-of-no-file": _error(
            "an inode that is not a file has content", "the content is moved to a file in lost+found"
        ),
        "content-without-inode": _error(
            "content belongs to no inode", "it becomes a file, in lost+found if the inode has no name"
        ),
        "target-without-inode": _error(
            "a link target belongs to no inode", "it becomes a symbolic link, in lost+found if the inode has no name"
        ),
        "attribute-without-inode": _error("an extended attribute belongs to no inode", "it is reported and removed"),
        "size-negative": _error("the size of a file is negative", "it is set to the end of the content"),
        "chunks-unlike-sums": _error(
            "the chunks of a file do not match its checksums, as the index has lost some",
            "the file is taken from the newest snapshot that has all of it; if none has, its holes give I/O errors",
        ),
        "chunk-impossible": _error("a chunk has an impossible offset or length", "its range gives I/O errors"),
        "chunks-overlap": _error("chunks of a file overlap", "the first one is shortened"),
        "chunk-past-end": _error(
            "content lies beyond the end of a file", "the file's size is set to the end of the content"
        ),
        "chunk-without-block": _error(
            "a chunk references a block that is not in the index", "its range gives I/O errors, never zeros"
        ),
        "chunk-past-block": _error(
            "a chunk reaches beyond the end of its block", "the range that is missing gives I/O errors"
        ),
        "block-without-pack": _error("a block is in no pack", _SEARCHED),
        "block-out-of-pack": _error("a block lies outside its pack", _SEARCHED),
        "pack-dead-but-used": _error("a pack that is in use is marked as dead", "the mark is removed"),
        "pack-dead-before-born": _error(
            "a pack is marked as dead before it was stored", "it is marked as dead from the next snapshot on"
        ),
        "pack-born-in-future": _error(
            "a pack is recorded as stored with a snapshot that cannot exist yet", "it is recorded as the oldest"
        ),
        "pack-missing": _error("a pack is not in the store", _SEARCHED),
        "pack-wrong-size": _error("a pack has the wrong size in the store", _SEARCHED),
        "snapshot-pack-missing": _error("a pack that only snapshots need is not in the store", _RECORDED),
        "snapshot-pack-damaged": _error("a pack has damaged blocks that only snapshots need", _RECORDED),
        "object-archived": _error(
            "an object was moved to an archive, so it cannot be read", "none: restore it in the store and check again"
        ),
        "object-unknown": _note("an object is referenced by nothing", "none: `cas3fs gc` deletes it once that is safe"),
        "epoch-damaged": _error(
            "the claim of an epoch cannot be read",
            "it is moved to damaged/ and replaced by the claim of an unknown writer",
        ),
        "base-damaged": _error(
            "the record of the snapshot that a take-over went on from cannot be read",
            "it is moved to damaged/ and written again by what the snapshots say",
        ),
        "release-damaged": _error(
            "the release of an epoch, which names the newest snapshot, cannot be read",
            "it is moved to damaged/ and written again by which snapshots are listed",
        ),
        "policy-damaged": _error(
            "the retention policy cannot be read, so no snapshot is deleted by age",
            "none: set the rules again with `cas3fs snapshot policy`",
        ),
        "key-damaged": _error(
            "an entry of a key is damaged, so its secret does not open the volume",
            "none: open the volume with another key, give the secret a new entry with `cas3fs key add`, and remove "
            "this one with `cas3fs key remove`",
        ),
        "keyring-damaged": _error(
            "a keyring is damaged",
            "none: if the volume can still be opened, `cas3fs key rotate` stores a new one",
        ),
        "snapshot-missing": _error(
            "a snapshot that nobody deleted is not in the store",
            "what it alone needs is given up; if it is the newest, it is stored again if this machine has its state, "
            "else the newest intact one before it is restored",
        ),
        "snapshot-damaged": _error("the manifest of a snapshot cannot be read", "it is moved to damaged/"),
        "pages-missing": _error("pages of a snapshot are not in the store", _STORED_AGAIN),
        "pages-wrong-size": _error("pages of a snapshot have the wrong size in the store", _STORED_AGAIN),
        "snapshot-unreadable": _error("pages of a snapshot are damaged", _STORED_AGAIN),
        "staging-bytes-missing": _error(
            "data that was not stored yet is missing on this machine",
            "the file keeps the data that was stored; the record is moved to records-put-aside.json in staging",
        ),
        "staging-record-damaged": _error(
            "a record of data that was not stored yet is damaged",
            "the file keeps the data that was stored; the record and its data are kept for `cas3fs rescue`",
        ),
        "staging-damaged": _error(
            "the database of data that was not stored yet is damaged",
            "the records that can be read are used; the database is kept for `cas3fs rescue`",
        ),
        "staging-put-aside": _note(
            "a damaged record of data that was not stored yet was set aside",
            "none: `cas3fs rescue` saves it; delete the file if you do not need it",
        ),
        "staging-bytes-lost": _note(
            "the local disk has lost data that was not stored yet",
            "none: reading it gives I/O errors until it is written again, and the file is not stored before that",
        ),
        "block-damaged": _error("the bytes of a block do not match its hash", _SEARCHED),
        "known-loss": _note(
            "ranges of files are known to be lost",
            "none: copying such a file in again heals all files that share the data",
        ),
        "known-snapshot-loss": _note("ranges of files in snapshots are known to be lost", "none"),
        "snapshot-put-aside": _note(
            "the manifest of a damaged snapshot is in damaged/",
            "none: delete the object if you do not need it; until then gc keeps all that the snapshot may need",
        ),
    }
)


@attrs.frozen
class Finding:
    """One thing that is wrong.

    Attributes:
        code: one of `KINDS`.
        touches: what it concerns, by name: inode, pack, block (in hex), snapshot, object.
        detail: more about it, for people.
        paths: some of the files that are affected; `path_count` says how many there are.
        ranges: (offset, length) in the file, if it is one file.
        lost: the number of blocks that a repair could find nowhere.
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
        """Whether it is an error that was not repaired."""
        return self.kind.severity == ERROR and not self.repaired

    @property
    def about(self) -> str:
        """What it touches, with the detail, for people."""
        touched = ", ".join(f"{name} {_text(value)}" for name, value in self.touches.items())
        return f"{touched}; {self.detail}" if self.detail else touched

    @property
    def identity(self) -> tuple[str, str]:
        """Equal for two findings of the same thing, whatever their details."""
        return self.code, repr(sorted(self.touches.items(), key=lambda item: item[0]))

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
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
"""Exit statuses, as those of fsck(8)."""


def status_of(findings: Iterable[Finding]) -> int:
    """The exit status for these findings."""
    errors = [one for one in findings if one.kind.severity == ERROR]
    if any(one.is_open for one in errors):
        return UNREPAIRED
    return REPAIRED if errors else CLEAN
