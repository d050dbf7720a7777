# SPDX-License-Identifier: GPL-3.0-or-later
"""Lost writes to a database: one page of its file is as it was before, or is empty, as a disk may give it back.

SQLite's file format is read here by hand, since what is looked for are pages that SQLite finds nothing wrong with.
Nobody may have the database open.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cas3fs.index.sqlite import Database

PAGE_BYTES: Final = 4096
_FILE_HEADER_BYTES: Final = 100
_INTERIOR: Final[Mapping[int, int]] = MappingProxyType({2: 12, 5: 12})
"""Kinds of pages that have children: what their headers take."""
_LEAVES: Final = (10, 13)


def checkpointed_bytes(path: Path) -> bytes:
    """The database's file with all that is committed, as one piece."""
    Database(path).close()  # who closes it last takes over the log
    return path.read_bytes()


def leaf_pages(path: Path, table: str) -> list[int]:
    """The numbers of the pages that hold the rows of a table, and nothing but rows; the first page is 1."""
    with closing(Database(path)) as database:
        (root,) = [page for _, name, page in database.catalogue() if name == table]
    return sorted(_leaves_below(checkpointed_bytes(path), root))


def _leaves_below(file: bytes, number: int) -> Iterator[int]:
    page = file[(number - 1) * PAGE_BYTES : number * PAGE_BYTES]
    start = _FILE_HEADER_BYTES if number == 1 else 0
    kind = page[start]
    if kind in _LEAVES:
        yield number
        return
    cells = _number(page, start + 3, 2)
    pointers = start + _INTERIOR[kind]
    children = [_number(page, _number(page, pointers + 2 * cell, 2), 4) for cell in range(cells)]
    for child in (*children, _number(page, start + 8, 4)):
        yield from _leaves_below(file, child)


def _number(page: bytes, place: int, length: int) -> int:
    return int.from_bytes(page[place : place + length], "big")


def lose_write(path: Path, page: int, before: bytes = b"") -> bool:
    """Lets a page be as it is in `before`, an earlier content of the whole file, or all zeros where that has none;
    whether that changes anything."""
    now = checkpointed_bytes(path)
    place = (page - 1) * PAGE_BYTES
    old = before[place : place + PAGE_BYTES] or bytes(PAGE_BYTES)
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), old, place)
    return old != now[place : place + PAGE_BYTES]
