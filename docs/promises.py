# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes into `promises.rst`, `rules.rst` and `posix.rst` which tests show each claim.

A claim of these pages has a key, which stands on a line of its own in literal quotes, and a text below it, indented. A
test shows a claim when it carries the key::

    @pytest.mark.promise("synced-data-survives-a-crash")
    def test_what_was_synced_is_there_after_a_kill() -> None: ...

Only the lists of tests are generated; the texts are written by hand, here and nowhere else. The tests are read, not
imported. A test of tests/architecture fails while a key has no test, a marker has an unknown key, or a list is stale.

Run it with ``python docs/promises.py``; ``./dev docs`` runs it before it builds the pages.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = tuple(ROOT / "docs" / name for name in ("posix.rst", "promises.rst", "rules.rst"))
TESTS = ROOT / "tests"
MARKER = "pytest.mark.promise"
KEY = re.compile(r"^``([a-z0-9-]+)``\n(?=    \S)", re.MULTILINE)
LIST = re.compile(r"\n(?:    \* ``[^`\n]+::\w+``\n)+")
WORDS = re.compile(r"(?:    [^\n]*\n|\n(?=    ))*")


class Shown(NamedTuple):
    """A test that carries the key of a claim."""

    key: str
    test: str  # its path below tests/, its class if it has one, and its name, as pytest writes them


def marked_tests(folder: Path = TESTS) -> list[Shown]:
    """Every marker of the tests below `folder`, in the order of paths and lines.

    Raises:
        ValueError: a marker stands where no test is, or its keys are not plain strings.
    """
    return [shown for path in sorted(folder.rglob("*.py")) for shown in _marked_in(path, str(path.relative_to(folder)))]


def _marked_in(path: Path, place: str) -> Iterator[Shown]:
    text = path.read_text()
    if MARKER not in text:
        return
    tree = ast.parse(text)
    read = 0
    for prefix, function in _functions(tree.body, f"{place}::"):
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == MARKER:
                read += 1
                yield from (Shown(_key(argument, place), f"{prefix}{function.name}") for argument in decorator.args)
    if read != sum(isinstance(node, ast.Attribute) and ast.unparse(node) == MARKER for node in ast.walk(tree)):
        raise ValueError(f"{path}: a promise is marked on something that is not a test function")


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield prefix, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}::")


def _key(argument: ast.expr, place: str) -> str:
    if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
        raise ValueError(f"{place}: line {argument.lineno}: the key of a promise is written as a plain string")
    return argument.value


def keys_of(text: str) -> list[str]:
    """The keys of the claims on a page, in their order."""
    return KEY.findall(text)


def with_tests(text: str, shown: list[Shown]) -> str:
    """The page `text` with the tests of `shown` listed below each claim."""
    parts = KEY.split(LIST.sub("", text))
    page = [parts[0]]
    for key, claim in zip(parts[1::2], parts[2::2], strict=True):
        words = next(WORDS.finditer(claim)).group()
        tests = "".join(f"    * ``{test}``\n" for marked, test in shown if marked == key)
        page += [f"``{key}``\n", words, f"\n{tests}" if tests else "", claim.removeprefix(words)]
    return "".join(page)


def main() -> None:
    """Brings the lists up to date, and names the pages that changed."""
    shown = marked_tests()
    for page in PAGES:
        before = page.read_text()
        after = with_tests(before, shown)
        if after != before:
            page.write_text(after)
            print(f"{page.relative_to(ROOT)}: the lists of tests were brought up to date", file=sys.stderr)


if __name__ == "__main__":
    main()
