# SPDX-License-Identifier: GPL-3.0-or-later
"""Every message that docs/troubleshooting.rst explains is one that cas3fs has."""

import ast
import difflib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.rst").read_text()
MESSAGES = [one for line in re.findall(r"^``(.*)``$", PAGE, re.MULTILINE) for one in line.split("``, ``")]
HOLE = "\0"


@cache
def texts() -> str:
    """Every text of the package, one a line, with a zero where a value goes in."""
    return "\n".join(text for module in (ROOT / "cas3fs").rglob("*.py") for text in _texts_of(module))


def _texts_of(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%(?:\.\d)?\w|\{\w+\}", HOLE, node.value)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_explained_exists(message: str) -> None:
    parts = [re.escape(part) for part in re.split(r"\s*\.\.\.\s*", message.strip()) if part]
    exists = re.search(f"[^\n]*{HOLE}[^\n]*".join(parts), texts()) is not None
    assert exists, f"docs/troubleshooting.rst: change {message!r}; perhaps it reads now: {nearest(message)}"


def nearest(message: str) -> str:
    known = [text for text in set(texts().splitlines()) if len(text) > len(message) // 2]
    found = difflib.get_close_matches(message.replace("...", HOLE), known, 1, 0.3)
    return found[0].replace(HOLE, "...") if found else "no such message"


def test_many_messages_are_explained() -> None:
    assert len(MESSAGES) > 40
