# SPDX-License-Identifier: GPL-3.0-or-later
"""Rolls: what the index says of all packs or blocks at one instant, to be gone through in order, several times.

A volume may have millions of packs, and their names alone would fill the memory. So a roll is a temporary table, which
SQLite keeps in a file that nobody else sees (in ``/var/tmp`` as a rule) and that is gone when it is closed. It is made
by one pass over the index, on a connection of its own, so no lock is needed; the transaction in which it is read ends
with that, so that the index's log can be emptied meanwhile. Memory: some MiB, however many there are.

Every method raises `IndexDatabaseError` and its kinds, and nothing else.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Self

from cas3fs.index.database import Database
from cas3fs.values import BlockLocation

PAGE_ROWS: Final = 2000
_CACHE_KIB: Final = 8192
_LIVE: Final = (
    "CREATE TEMP TABLE live (block INTEGER PRIMARY KEY)",
    # sorted, so that every insertion is at the end
    "INSERT INTO temp.live SELECT DISTINCT block FROM chunks ORDER BY block",
)
_ROLL: Final = (
    "CREATE TEMP TABLE roll AS SELECT p.name, p.size, p.born, p.died, coalesce(s.blocks, 0) AS blocks, "
    "coalesce(s.bytes, 0) AS bytes FROM packs p LEFT JOIN "
    "(SELECT pack, count(*) AS blocks, sum(stored_length) AS bytes FROM blocks GROUP BY pack) s ON s.pack = p.id "
    "ORDER BY p.name",
)
_USES: Final = (
    "CREATE TEMP TABLE roll AS SELECT p.id, p.name, p.size, p.born, p.died, coalesce(s.blocks, 0) AS blocks, "
    "coalesce(s.bytes, 0) AS bytes, coalesce(s.live, 0) AS live, coalesce(s.live_bytes, 0) AS live_bytes "
    "FROM packs p LEFT JOIN (SELECT b.pack, count(*) AS blocks, sum(b.stored_length) AS bytes, "
    "count(l.block) AS live, sum(CASE WHEN l.block IS NULL THEN 0 ELSE b.stored_length END) AS live_bytes "
    "FROM blocks b LEFT JOIN temp.live l ON l.block = b.id GROUP BY b.pack) s ON s.pack = p.id ORDER BY {order}"
)
_NEEDED: Final = (
    *_LIVE,
    "CREATE TEMP TABLE roll (name TEXT PRIMARY KEY) WITHOUT ROWID",
    "INSERT INTO temp.roll SELECT DISTINCT p.name FROM blocks b JOIN packs p ON p.id = b.pack "
    "WHERE b.id IN (SELECT block FROM temp.live) ORDER BY p.name",
)
_DEAD: Final = (
    "CREATE TEMP TABLE roll AS SELECT id FROM blocks WHERE id NOT IN (SELECT block FROM temp.live) "
    "AND pack IN (SELECT id FROM packs WHERE born < {young}) ORDER BY id"
)
_EMPTY: Final = (
    "CREATE TEMP TABLE roll AS SELECT id FROM packs WHERE died IS NULL AND born < {young} "
    "AND id NOT IN (SELECT pack FROM blocks) ORDER BY id"
)
_DEAD_PACKS: Final = (
    "CREATE TEMP TABLE roll AS SELECT name, size, born, died FROM packs WHERE died IS NOT NULL ORDER BY id",
)
_CHOSEN: Final = "CREATE TEMP TABLE chosen (pack INTEGER PRIMARY KEY)"
_ALL_CHOSEN: Final = "INSERT INTO temp.chosen SELECT id FROM packs WHERE name > '{after}' ORDER BY id"
_LIVE_OF: Final = (
    "CREATE TEMP TABLE roll AS SELECT b.id AS block, b.pack AS pack "
    "FROM blocks b JOIN packs p ON p.id = b.pack WHERE b.pack IN (SELECT pack FROM temp.chosen) "
    "AND b.id IN (SELECT block FROM temp.live) ORDER BY p.name, b.offset",
)
_LIVE_PAGE: Final = (
    "SELECT r.rowid, b.hash, p.name, b.offset, b.stored_length, b.plain_length FROM temp.roll r "
    "LEFT JOIN blocks b ON b.id = r.block AND b.pack = r.pack LEFT JOIN packs p ON p.id = b.pack "
    "WHERE r.rowid > ? ORDER BY r.rowid LIMIT ?"
)


class PackEntry(NamedTuple):
    """A pack, and what the index places in it; sizes in bytes."""

    name: str
    size: int
    born: int
    died: int | None
    blocks: int
    block_bytes: int
    """Of those blocks, encoded."""

    @property
    def used(self) -> bool:
        """Whether the index places blocks in it."""
        return self.blocks > 0


class PackUse(NamedTuple):
    """How much of a pack the index uses; sizes in bytes."""

    id: int
    name: str
    size: int
    born: int
    died: int | None
    blocks: int
    """Blocks that the index places in it."""
    block_bytes: int
    """Their encoded bytes."""
    live_blocks: int
    live_bytes: int


class DeadPack(NamedTuple):
    """A pack that no file uses any more; `born` and `died` are ordinals of snapshots."""

    name: str
    size: int
    born: int
    died: int


class _Scan:
    """A temporary table `roll` on a connection of its own; for one thread."""

    _page_text: ClassVar[str] = "SELECT rowid, * FROM temp.roll WHERE rowid > ? ORDER BY rowid LIMIT ?"

    def __init__(self, path: Path, statements: tuple[str, ...]) -> None:
        self._database = Database(path, "read")
        try:
            self._database.execute("PRAGMA temp_store=FILE")
            self._database.execute(f"PRAGMA temp.cache_size=-{_CACHE_KIB}")
            self._database.execute("BEGIN")
            for statement in statements:
                self._run(statement)
            self._database.execute("COMMIT")
        except BaseException:
            self._database.close()
            raise

    def _run(self, statement: str) -> None:
        """One of the statements that make it."""
        self._database.execute(statement)

    def _fill(self, text: str, rows: Iterable[tuple[Any, ...]]) -> None:
        try:
            self._database.connection.executemany(text, rows)
        except sqlite3.Error as error:
            raise self._database.fault(error) from error

    def _pages(self) -> Iterator[list[tuple[Any, ...]]]:
        """The rows in order, each behind its place, some at a time."""
        after = 0
        while rows := self._all(self._page_text, after, PAGE_ROWS):
            yield rows
            after = rows[-1][0]

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        """The same, one by one."""
        return chain.from_iterable(self._pages())

    def _ids(self) -> Iterator[list[int]]:
        """Of a roll of ids, those, some at a time."""
        for page in self._pages():
            yield [row[1] for row in page]

    def _all(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._database.connection.execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise self._database.fault(error) from error

    def close(self) -> None:
        """Gives back the file."""
        self._database.rollback()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PackScan(_Scan):
    """All packs, by name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _ROLL)

    def __iter__(self) -> Iterator[PackEntry]:
        for row in self._rows():
            yield PackEntry(*row[1:])


class PackUseScan(_Scan):
    """All packs with how much of each is used, oldest first, or by name."""

    def __init__(self, path: Path, *, by_name: bool = False) -> None:
        order = "p.name" if by_name else "p.id"
        super().__init__(path, (*_LIVE, _USES.format(order=order)))

    def __iter__(self) -> Iterator[PackUse]:
        for row in self._rows():
            yield PackUse(*row[1:])


class NeededPackScan(_Scan):
    """The names of the packs in which a live block lies."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _NEEDED)

    def __contains__(self, name: object) -> bool:
        return bool(self._all("SELECT 1 FROM temp.roll WHERE name = ?", name))


class DeadBlockScan(_Scan):
    """The ids of the blocks that no chunk names, outside of packs born at `young` or later."""

    def __init__(self, path: Path, young: int) -> None:
        super().__init__(path, (*_LIVE, _DEAD.format(young=int(young))))

    def __iter__(self) -> Iterator[list[int]]:
        """Some at a time."""
        return self._ids()


class EmptyPackScan(_Scan):
    """The ids of the packs that are not dead, were born before `young`, and in which no block lies."""

    def __init__(self, path: Path, young: int) -> None:
        super().__init__(path, (_EMPTY.format(young=int(young)),))

    def __iter__(self) -> Iterator[list[int]]:
        """Some at a time."""
        return self._ids()


class DeadPackScan(_Scan):
    """The packs that are dead, oldest first."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _DEAD_PACKS)

    def __iter__(self) -> Iterator[DeadPack]:
        for row in self._rows():
            yield DeadPack(*row[1:])


class LiveBlockScan(_Scan):
    """The live blocks of packs, by the packs' names, in the order in which they lie there. Where each lies is read when
    it is asked for; one that has moved by then is left out.

    Args:
        packs: the ids of those packs; None for all.
        after: without `packs`, only those of greater names.
    """

    _page_text = _LIVE_PAGE

    def __init__(self, path: Path, packs: Iterable[int] | None = None, after: str = "") -> None:
        self._packs = packs
        all_chosen = (_ALL_CHOSEN.format(after=after.replace("'", "''")),) if packs is None else ()
        super().__init__(path, (*_LIVE, _CHOSEN, *all_chosen, *_LIVE_OF))

    def _run(self, statement: str) -> None:
        super()._run(statement)
        if statement == _CHOSEN and self._packs is not None:
            self._fill("INSERT OR IGNORE INTO temp.chosen VALUES (?)", ((pack,) for pack in self._packs))

    def __iter__(self) -> Iterator[list[BlockLocation]]:
        """Those of one pack after the other."""
        there = (row for row in self._rows() if row[2] is not None)
        for _, group in groupby(there, key=lambda row: row[2]):
            yield [BlockLocation(*row[1:]) for row in group]
