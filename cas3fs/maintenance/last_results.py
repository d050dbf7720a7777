# SPDX-License-Identifier: GPL-3.0-or-later
"""The last results of gc, fsck and verify, for ``cas3fs stats``: a JSON object in a file of the state directory.

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

RESULTS_NAME: Final = "maintenance.json"


def save_last_result(state: Path, what: str, result: Mapping[str, Any]) -> None:
    """Saves the result of ``gc``, ``fsck`` or ``verify`` as of now.

    Raises:
        OSError: the file cannot be written.
    """
    results = load_last_results(state) | {what: {"time": datetime.now(UTC).isoformat(timespec="seconds"), **result}}
    replace_file(state / RESULTS_NAME, json.dumps(results, indent=1), sync=False)


def load_last_results(state: Path) -> dict[str, Any]:
    """The saved results; empty if there is no file that can be read."""
    try:
        results = json.loads((state / RESULTS_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}
