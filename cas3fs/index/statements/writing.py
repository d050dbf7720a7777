# SPDX-License-Identifier: GPL-3.0-or-later
"""How a statement is written: SQLAlchemy makes the text, its author says in which order calls give the parameters."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import BindParameter, Executable, Integer, bindparam
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.sql.ddl import ExecutableDDLElement
from sqlalchemy.sql.elements import ClauseElement

_PREFIX: Final = "p_"  # SQLAlchemy keeps the columns' own names to itself in INSERT and UPDATE


def param(name: str) -> BindParameter[Any]:
    """A parameter of a statement, for `Written` to put in order."""
    return bindparam(_PREFIX + name)


def count_param(name: str) -> BindParameter[int]:
    """A parameter for LIMIT, which has no column to take a type from."""
    return bindparam(_PREFIX + name, type_=Integer())


class Written:
    """What SQLAlchemy makes of a statement, with plain ``?``, since Python deprecates numbered ones with values by
    position.

    Attributes:
        text: SQL for SQLite, in one line.
        order: for each ``?``, which of a call's values it takes; empty when they are in place already.
    """

    def __init__(self, statement: Executable, parameters: str = "") -> None:
        """Compiles `statement`; `parameters` names its parameters in the order in which calls give them.

        Raises:
            ValueError: the statement has other parameters, or a constant that became one.
        """
        assert isinstance(statement, ClauseElement)
        compiled = statement.compile(dialect=dialect(paramstyle="qmark"))
        names = [_PREFIX + name for name in parameters.split()]
        placed: Sequence[str] = getattr(compiled, "positiontup", None) or ()
        self.text = " ".join(str(compiled).split())
        if set(placed) != set(names) or self.text.count("?") != len(placed):
            raise ValueError(f"the statement has the parameters {placed}, not {tuple(names)}: {compiled}")
        order = tuple(names.index(name) for name in placed)
        self.order = () if order == tuple(range(len(names))) else order


def ddl(element: ExecutableDDLElement) -> str:
    """The text of a statement that makes or drops a table or an index; SQLite keeps it, so it stays as it is."""
    return str(element.compile(dialect=dialect()))
