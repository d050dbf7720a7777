# SPDX-License-Identifier: GPL-3.0-or-later
"""What README.rst tells the user to type exists, and so do the tests that it and the pages of docs/ name."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]


def commands() -> Iterator[list[str]]:
    """The words of every command of the README: its literal lines that begin with ``$``, and ``cas3fs ...`` in text."""
    text = (ROOT / "README.rst").read_text()
    lines = re.findall(r"^ +\$ (.*(?:\\\n.*)*)", text, re.MULTILINE) + re.findall(
        r"``((?:cas3fs|\./dev) [^`]*)``", text
    )
    for line in lines:
        for part in re.split(r"&&|;|\|", line.replace("\\\n", " ")):
            yield shlex.split(part, comments=True)


def of_program(program: str) -> list[list[str]]:
    """The arguments of every distinct command that runs `program`, possibly by sudo."""
    found = [words[1:] if words[:1] == ["sudo"] else words for words in commands()]
    return [list(words) for words in sorted({tuple(words[1:]) for words in found if words[:1] == [program]})]


def find_verb(words: list[str]) -> click.Command:
    """The verb that `words` begin with, sub-verbs followed down.

    Raises:
        KeyError: there is no such verb.
    """
    from cas3fs.cli.program import program

    command: click.Command = program
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(click.Context(command), word) or _no_verb(word)
    return command


def _no_verb(word: str) -> click.Command:
    raise KeyError(word)


@pytest.mark.parametrize("words", of_program("cas3fs"), ids=shlex.join)
def test_a_command_of_the_readme_and_its_options_exist(words: list[str]) -> None:
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    verb = find_verb([word for word in words if not word.startswith("-")])
    known = {"--help", *(name for parameter in verb.params for name in parameter.opts + parameter.secondary_opts)}
    assert set(options) <= known


@pytest.mark.parametrize("words", of_program("./dev"), ids=shlex.join)
def test_a_verb_of_dev_in_the_readme_exists(words: list[str]) -> None:
    usage = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  {re.escape(words[0])}\b", usage, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"``([\w/]+\.py)::(?:\w+::)?(\w+)``", page.read_text())
    assert [f"{path}::{name}" for path, name in named if not is_test(ROOT / "tests" / path, name)] == []


def is_test(file: Path, name: str) -> bool:
    return file.exists() and re.search(rf"^ *def {name}\(", file.read_text(), re.MULTILINE) is not None
