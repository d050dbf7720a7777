# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing that comes from a volume steers the terminal on which it is shown."""

import json
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cas3fs.cli.printable import printable

LABEL = "a\x1b[2Jb\x07\u202ec\x9b31m"


def cas3fs(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "cas3fs", *arguments], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == status, done.stderr
    return done


@given(st.text() | st.characters(categories=["Cc", "Cs", "Cf"]))
def test_plain_text_can_be_printed_and_says_the_same(text: str) -> None:
    shown = printable(text)
    assert shown.replace("\n", "").replace("\t", "").isprintable()
    shown.encode()
    if text.isprintable():
        assert shown == text


def test_a_label_with_a_terminals_commands_is_shown_by_escapes(tmp_path: Path) -> None:
    cas3fs("mkfs", "--no-encrypt", tmp_path.as_uri(), "--label", LABEL)
    shown = cas3fs("stats", tmp_path.as_uri()).stdout
    assert "b\\x07\\u202ec" in shown
    assert shown.replace("\n", "").isprintable()
    assert json.loads(cas3fs("stats", tmp_path.as_uri(), "--json").stdout)["label"] == LABEL


def test_an_error_with_a_terminals_commands_is_shown_by_escapes(tmp_path: Path) -> None:
    cas3fs("mkfs", "--no-encrypt", tmp_path.as_uri())
    line = cas3fs("snapshot", "show", tmp_path.as_uri(), "x\x1b[2J", status=1).stderr
    assert line.rstrip("\n").isprintable()
