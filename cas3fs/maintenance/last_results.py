# SPDX-License-Identifier: GPL-3.0-or-later
"""What gc, fsck and verify found last, for ``cas3fs stats``: a JSON object in a file of the state folder.

::

    {"gc": {"time": "2026-01-31T12:00:00+00:00", ...}, "fsck": {...}, "verify": {...}}

It is replaced as a whole; nothing depends on it.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cas3fs.durable import replace_file

RECORD_NAME: Final = "maintenance.json"


def save_last_result(state: Path, what: str, result: Mapping[str, Any]) -> None:
    """Notes the result of `what` as of now.

    Raises:
        OSError: it cannot be written.
    """
    known = load_last_results(state) | {what: {"time": datetime.now(UTC).isoformat(timespec="seconds"), **result}}
    replace_file(state / RECORD_NAME, json.dumps(known, indent=1), sync=False)


def load_last_results(state: Path) -> dict[str, Any]:
    """What was noted; nothing where there is no note that can be read."""
    try:
        known = json.loads((state / RECORD_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
