# SPDX-License-Identifier: GPL-3.0-or-later
"""Lost writes to a database: one page of its file reverts to its earlier content, or to zeros.

This module decodes SQLite's file format by itself to find pages in which SQLite notices no damage. No process may have
the database open.
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
"""The kinds of pages that have children, with the size of their header."""
_LEAVES: Final = (10, 13)


def checkpointed_bytes(path: Path) -> bytes:
    """The bytes of the database's file after a checkpoint, which contain all commits."""
    Database(path).close()  # closing it moves the log into the file
    return path.read_bytes()


def leaf_pages(path: Path, table: str) -> list[int]:
    """The numbers of the pages that contain only rows of a table; the first page is 1."""
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
    """Undo the last writes of a page.

    Args:
        path: the database.
        page: the number of the page.
        before: earlier bytes of the whole file; where they lack the page, it becomes zeros.

    Returns:
        Whether the page has changed.
    """
    now = checkpointed_bytes(path)
    place = (page - 1) * PAGE_BYTES
    old = before[place : place + PAGE_BYTES] or bytes(PAGE_BYTES)
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), old, place)
    return old != now[place : place + PAGE_BYTES]
