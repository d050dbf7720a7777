# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the texts of all statements into the modules of `cas3fs.index.texts`, one for each module of statements."""

import importlib
import pkgutil
import textwrap
from pathlib import Path
from typing import Final

from cas3fs.index.prepared import Prepared
from cas3fs.index.statements.writing import Written

_NOT_STATEMENTS: Final = frozenset({"writing", "keeping", "__main__"})
_WIDTH: Final = 100

Kept = Prepared | int | str | tuple["Kept", ...]


def names() -> list[str]:
    """The modules of statements."""
    found = (one.name for one in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return [one for one in found if one not in _NOT_STATEMENTS]


def kept(name: str) -> dict[str, Kept]:
    """What is to be kept of a module of statements: every constant with a public name."""
    module = importlib.import_module(f"{__package__}.{name}")
    return {one: _kept(value) for one, value in vars(module).items() if one.isupper() and not one.startswith("_")}


def _kept(value: object) -> Kept:
    if isinstance(value, Written):
        return Prepared(value.text, value.order)
    if isinstance(value, tuple):
        return tuple(_kept(one) for one in value)
    assert isinstance(value, int | str)
    return value


def write(name: str, folder: Path) -> None:
    """Writes the texts of a module of statements into the folder."""
    body = "".join(f"{one} = {_source(value)}\n" for one, value in kept(name).items())
    head = [
        "# SPDX-License-Identifier: GPL-3.0-or-later",
        f'"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.{name}`."""\n',
    ]
    if "Prepared(" in body:
        head.append("from cas3fs.index.prepared import Prepared\n")
    (folder / f"{name}.py").write_text("\n".join((*head, body)))


def _source(value: Kept) -> str:
    """The value as Python writes it."""
    if isinstance(value, Prepared):
        return f"Prepared({_source(value.text)}, {value.order})" if value.order else f"Prepared({_source(value.text)})"
    if isinstance(value, tuple):
        return f"({''.join(f'{_source(one)}, ' for one in value)})"
    if isinstance(value, int):
        return str(value)
    pieces = [piece for line in value.splitlines(keepends=True) for piece in _pieces(line)]
    return _quoted(value) if len(pieces) == 1 else "(" + "\n".join(map(_quoted, pieces)) + ")"


def _pieces(line: str) -> list[str]:
    """The line in pieces that fit one."""
    cut = textwrap.wrap(line, _WIDTH, drop_whitespace=False, replace_whitespace=False, expand_tabs=False)
    return cut if "".join(cut) == line else [line]


def _quoted(text: str) -> str:
    return repr(text) if '"' in text else '"' + repr(text)[1:-1] + '"'
