# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a verification has come, so that a run that was stopped or killed continues from there.

It is a JSON file in the state directory, replaced as a whole::

    {"after": pack, "blocks": n, "bytes": n, "damaged": [block in hex, ...],
     "snapshots": [id, ...], "hurt_snapshots": {id: text}, "hurt_packs": {pack: text},
     "archived": {key: text}}

It has what was found so far, too; nothing depends on it.
"""

import json
from pathlib import Path

import attrs

from cas3fs.durable import replace_file


@attrs.define
class VerifyProgress:
    """How far a verification has come, and what it has found. The attributes are the keys of the file.

    Attributes:
        after: the greatest name of a pack that was read.
        blocks, bytes: read so far.
        damaged: the damaged blocks of the volume, in hex.
        snapshots: the ids of the snapshots whose index was read.
        hurt_snapshots: what is wrong with snapshots, by id.
        hurt_packs: what is wrong with blocks that only snapshots need, by pack.
        archived: the errors of objects that cannot be read as they are in an archive, by key.
    """

    after: str = ""
    blocks: int = 0
    bytes: int = 0
    damaged: list[str] = attrs.field(factory=list)
    snapshots: list[str] = attrs.field(factory=list)
    hurt_snapshots: dict[str, str] = attrs.field(factory=dict)
    hurt_packs: dict[str, str] = attrs.field(factory=dict)
    archived: dict[str, str] = attrs.field(factory=dict)


class VerifyCheckpoint:
    """The file that keeps the progress."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> VerifyProgress:
        """The progress of an earlier run; the beginning if there is none."""
        try:
            saved = json.loads(self._path.read_text())
            return VerifyProgress(
                after=str(saved["after"]),
                blocks=int(saved["blocks"]),
                bytes=int(saved["bytes"]),
                damaged=[str(one) for one in saved["damaged"]],
                snapshots=[str(one) for one in saved.get("snapshots", ())],
                hurt_snapshots=dict(saved.get("hurt_snapshots", {})),
                hurt_packs=dict(saved.get("hurt_packs", {})),
                archived=dict(saved.get("archived", {})),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return VerifyProgress()

    def save(self, progress: VerifyProgress) -> None:
        """Saves the progress.

        Raises:
            OSError: it cannot be written.
        """
        replace_file(self._path, json.dumps(attrs.asdict(progress)), sync=False)

    def clear(self) -> None:
        """Removes the file: the next run starts at the beginning."""
        self._path.unlink(missing_ok=True)
