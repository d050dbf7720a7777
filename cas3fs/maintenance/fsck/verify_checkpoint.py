# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a verification is, so that a run that was stopped by its time limit, or killed, goes on from there.

It is a JSON file in the state folder, replaced as a whole::

    {"after": pack, "blocks": n, "bytes": n, "damaged": [block in hex, ...],
     "snapshots": [id, ...], "hurt_snapshots": {id: text}, "hurt_packs": {pack: text},
     "archived": {key: text}}

What was found up to then stands there too; nothing depends on it.
"""

import json
from pathlib import Path

import attrs

from cas3fs.durable import replace_file


@attrs.define
class VerifyProgress:
    """How far a verification has come.

    after: the greatest name of a pack that was read.
    blocks, bytes: read so far. damaged: blocks of the volume that are not what they should be, in hex.
    snapshots: ids of those of which the index was read. hurt_snapshots: of those, what is wrong with which.
    hurt_packs: by pack, what is wrong in it with what only snapshots need.
    archived: by key, objects that could not be read as they lie in an archive.
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
    """The file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> VerifyProgress:
        """Where an earlier run has stopped; the beginning if none has."""
        try:
            told = json.loads(self._path.read_text())
            return VerifyProgress(
                after=str(told["after"]),
                blocks=int(told["blocks"]),
                bytes=int(told["bytes"]),
                damaged=[str(one) for one in told["damaged"]],
                snapshots=[str(one) for one in told.get("snapshots", ())],
                hurt_snapshots=dict(told.get("hurt_snapshots", {})),
                hurt_packs=dict(told.get("hurt_packs", {})),
                archived=dict(told.get("archived", {})),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return VerifyProgress()

    def save(self, place: VerifyProgress) -> None:
        """Notes where the run is.

        Raises:
            OSError: it cannot be written.
        """
        replace_file(self._path, json.dumps(attrs.asdict(place)), sync=False)

    def clear(self) -> None:
        """The next run begins at the beginning."""
        self._path.unlink(missing_ok=True)
