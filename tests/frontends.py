# SPDX-License-Identifier: GPL-3.0-or-later
"""The front-end through which tests mount; the docstring of tests/conftest.py says how a test or a session chooses it.

What makes mounts asks this module, unless the test says by the fixture `frontend` which one it means.
"""

import os
from collections import Counter
from typing import Final

import pytest

VARIABLE: Final = "CAS3FS_TEST_FRONTEND"
"""Where a session says it to all that it starts."""
FRONTENDS: Final = ("kernel", "llfuse")
USUAL: Final = FRONTENDS[:1]


def chosen() -> str:
    """What mounts have for ``--frontend``."""
    return os.environ.get(VARIABLE, "auto")


def names_of(item: pytest.Item | pytest.Function, asked: str | None) -> tuple[str, ...]:
    """The front-ends that a test runs through: those of its marker, or of them the one that the session asks for.

    A session that asks for another one than the marker has does not run the test; see `deselect`.
    """
    marker = item.get_closest_marker("frontend")
    if marker is None:
        return (asked,) if asked else USUAL
    names = tuple(marker.args)
    assert names and set(names) <= set(FRONTENDS), f"{item.nodeid}: no front-ends: {names}"
    assert "llfuse" in names or marker.kwargs.get("lacks"), f"{item.nodeid}: what does llfuse lack for it?"
    return (asked,) if asked in names else names


def deselect(items: list[pytest.Item], asked: str | None) -> tuple[list[pytest.Item], Counter[str]]:
    """Removes from `items` what cannot run through the front-end that is asked for; returns it, and why."""
    if asked is None:
        return [], Counter()
    others = [item for item in items if asked not in names_of(item, asked)]
    items[:] = [item for item in items if asked in names_of(item, asked)]
    return others, Counter(map(_why, others))


def _why(item: pytest.Item) -> str:
    marker = item.get_closest_marker("frontend")
    assert marker is not None
    return str(marker.kwargs.get("lacks", f"through {' and '.join(marker.args)} alone"))
