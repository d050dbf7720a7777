# SPDX-License-Identifier: GPL-3.0-or-later
"""``python cas3fs/index/statements``: see the package, beside which the texts are written."""

import sys
from pathlib import Path
from types import ModuleType


def write_texts(index: Path) -> None:
    """Writes the texts of all statements of the room in the folder `index`."""
    # that room cannot be imported while a text that it names is missing
    room = ModuleType("cas3fs.index")
    room.__path__ = [str(index)]
    sys.modules[room.__name__] = room

    from cas3fs.index.statements import keeping

    for name in keeping.names():
        keeping.write(name, index / "texts")


write_texts(Path(__file__).parents[1])
