# SPDX-License-Identifier: GPL-3.0-or-later
"""What README.rst and the pages of docs/ name exists: commands and options, tests, files, modules, figures."""

import contextlib
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
    """The words of every command of a page: its literal lines that begin with ``$``, and ``cas3fs ...`` in text."""
    text = "\n".join(page.read_text() for page in PAGES)
    lines = re.findall(r"^ +\$ (.*(?:\\\n.*)*)", text, re.MULTILINE) + re.findall(
        r"``((?:cas3fs|\./dev) [^`]*)``", text
    )
    for line in lines:
        for part in re.split(r"&&|;|\|", re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "TEXT", line.replace("\\\n", " "))):
            with contextlib.suppress(ValueError):  # an apostrophe in a comment
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
def test_a_command_and_its_options_exist(words: list[str]) -> None:
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    verb = find_verb([word for word in words if not word.startswith("-")])
    known = {"--help", *(name for parameter in verb.params for name in parameter.opts + parameter.secondary_opts)}
    assert set(options) <= known


@pytest.mark.parametrize("words", of_program("./dev"), ids=shlex.join)
def test_a_verb_of_dev_exists(words: list[str]) -> None:
    usage = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  {re.escape(words[0])}\b", usage, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_tests_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"``([\w/]+\.py)::(?:\w+::)?(\w+)``", page.read_text())
    assert [f"{path}::{name}" for path, name in named if not is_test(ROOT / "tests" / path, name)] == []


def is_test(file: Path, name: str) -> bool:
    return file.exists() and re.search(rf"^ *def {name}\(", file.read_text(), re.MULTILINE) is not None


def test_the_tests_that_modules_and_tests_refer_to_exist() -> None:
    folders = ("cas3fs", "tests", "benchmarks", "docs")
    modules = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = {
        name for module in modules for name in re.findall(r"``?(?:tests/)?((?:\w+/)+test_\w+\.py)", module.read_text())
    }
    assert [name for name in sorted(named) if not (ROOT / "tests" / name).exists()] == []


# --- the README


def test_the_readme_fits_on_few_screens_and_lists_every_command() -> None:
    from cas3fs.cli.program import VERBS

    text = (ROOT / "README.rst").read_text()
    assert len(text.splitlines()) < 140
    assert set(re.findall(r"^``(\w+)``  +\w", text, re.MULTILINE)) == set(VERBS)


def test_a_figure_of_the_readme_is_one_of_the_measured_run() -> None:
    table = (ROOT / "README.rst").read_text().partition("\nSpeed\n")[2].partition("Where to read on")[0]
    figures = re.findall(r"^\S.*?  +([\d.,]+) +([\d.,]+)$", table, re.MULTILINE)
    measured = (ROOT / "docs" / "performance.rst").read_text()
    assert len(figures) == 10
    for ours, peers in figures:
        assert re.search(rf'"{re.escape(ours)}".*"{re.escape(peers)}"', measured), f"no line has {ours} and {peers}"


# --- names

PLACES = (ROOT, ROOT / "cas3fs", ROOT / "docs", ROOT / "tests")
IN_THE_STORE = {"packs/", "snapshots/", "pages/", "epochs/", "forks/", "keys/", "keyring/", "policies/", "copies/"}


def literals(page: Path) -> set[str]:
    return set(re.findall(r"``([^`\n]+)``", page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_files_and_folders_that_a_page_names_exist(page: Path) -> None:
    named = {text for text in literals(page) if re.fullmatch(r"[\w.-]+(/[\w.-]+)*(/|\.py|\.rst|\.toml)", text)}
    missing = [text for text in named - IN_THE_STORE if not any((place / text).exists() for place in PLACES)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_modules_classes_and_functions_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    dotted = set(re.findall(r"\b(cas3fs(?:\.\w+)+)", text))
    imported = re.findall(r"^ *from (cas3fs[\w.]*) import ([\w, ]+)", text, re.MULTILINE)
    names = dotted | {f"{module}.{name.strip()}" for module, found in imported for name in found.split(",")}
    assert [name for name in sorted(names) if not is_defined(name)] == []


def is_defined(name: str) -> bool:
    """Whether `name` is a module of the package, or something that a module defines or takes from another."""
    module, _, last = name.rpartition(".")
    if any(is_module(Path(name.replace(".", "/")), suffix) for suffix in (".py", "/__init__.py")):
        return True
    for suffix in (".py", "/__init__.py"):
        file = ROOT / (module.replace(".", "/") + suffix)
        if file.exists() and re.search(rf"^(class |def |.*import .*\b)?{last}\b", file.read_text(), re.MULTILINE):
            return True
    return name == "cas3fs.caches"  # a group of entry points, too


def is_module(path: Path, suffix: str) -> bool:
    return (ROOT / f"{path}{suffix}").exists()


def test_the_manual_states_the_default_retention_policy() -> None:
    from cas3fs.snapshots.policy import DEFAULT_POLICY, RetentionPolicy

    manual = " ".join((ROOT / "docs" / "manual.rst").read_text().split())
    stated = re.search(
        r"keeps all snapshots of the last hour, then one for each of (\d+) hours, (\d+) days and (\d+) months", manual
    )
    assert stated is not None
    hourly, daily, monthly = map(int, stated.groups())
    assert RetentionPolicy(within_s=3600, hourly=hourly, daily=daily, monthly=monthly, names=("*",)) == DEFAULT_POLICY
