# SPDX-License-Identifier: GPL-3.0-or-later
"""Scans: what the index says of all packs or blocks at one instant, to be iterated in order, several times.

A volume may have millions of packs, and their names alone would fill the memory. So a scan is a temporary table, which
SQLite puts into a file that no other process sees (usually in ``/var/tmp``), and that is deleted with the scan. One
pass over the index fills it, on a connection of its own, so no lock is needed; the transaction in which the index is
read ends with that, so that the index's log can be emptied meanwhile. Memory: some MiB, however many there are.

Every method raises `IndexDatabaseError` and its kinds, and nothing else.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy import Column, Executable, Integer, MetaData, Select, Table, Text, case, exists, func, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.schema import CreateTable

from cas3fs.index.blocks import LOCATION, PLACED_BLOCKS, DeadPack, PackContents, PackUse
from cas3fs.index.hash_index import fill_from, prefix_of, temporary_hashes
from cas3fs.index.holder import ConnectionHolder
from cas3fs.index.sqlite import Database
from cas3fs.index.statement import Row, Statement, ddl
from cas3fs.index.tables import block_hashes, blocks, chunks, copied_blocks, lost_blocks, packs
from cas3fs.values import BlockLocation

PAGE_ROWS: Final = 2000
_CACHE_KIB: Final = 8192

TEMPORARY: Final = MetaData(schema="temp")
"""The temporary tables; a scan fills one of those called ``scan_...``, and may need the others for it."""

_live = Table("live", TEMPORARY, Column("block", Integer, primary_key=True))
_chosen = Table("chosen", TEMPORARY, Column("pack", Integer, primary_key=True))


def _table(name: str, *columns: Column[Any]) -> Table:
    """A table of the rows of a scan, which are numbered in order from 1."""
    return Table(f"scan_{name}", TEMPORARY, Column("place", Integer, primary_key=True), *columns)


def _integers(*names: str) -> list[Column[Any]]:
    return [Column(name, Integer) for name in names]


def _filled(table: Table, query: Select[Any]) -> Executable:
    """The rows of the query, in its order, become those of the table."""
    return insert(table).from_select([one.name for one in table.c if one.name != "place"], query)


def _page_of(table: Table) -> Statement:
    return Statement(
        lambda after, limit: select(*table.c).where(table.c.place > after).order_by(table.c.place).limit(limit)
    )


_pack_rows = _table("packs", Column("name", Text), *_integers("size", "born", "died", "blocks", "block_bytes"))
_use_rows = _table(
    "pack_use",
    Column("id", Integer),
    Column("name", Text),
    *_integers("size", "born", "died", "blocks", "block_bytes", "live_blocks", "live_bytes"),
)
_needed_rows = Table("scan_needed", TEMPORARY, Column("name", Text, primary_key=True), sqlite_with_rowid=False)
_dead_rows = _table("dead_blocks", Column("id", Integer))
_empty_rows = _table("empty_packs", Column("id", Integer))
_dead_pack_rows = _table("dead_packs", Column("name", Text), *_integers("size", "born", "died"))
_live_rows = _table("live_blocks", *_integers("block", "pack"))
_uncopied_rows = _table("uncopied_blocks", *_integers("block"))

_COPY: Final = "copy"
_LEDGER: Final = "ledger"
# under names of their own, as SQLAlchemy confuses tables of one name in two databases
_copy_blocks = blocks.to_metadata(MetaData(schema=_COPY), schema=_COPY).alias("copy_blocks")
_copy_lost = lost_blocks.to_metadata(MetaData(schema=_COPY), schema=_COPY).alias("copy_lost")
_copied = copied_blocks.to_metadata(MetaData(schema=_LEDGER), schema=_LEDGER)


class _Scan(ConnectionHolder):
    """A temporary table that was filled by one pass; for one thread."""

    _rows_table: ClassVar[Table]
    _page: ClassVar[Statement]
    _fill_live = Statement(
        # sorted, so that every insertion is at the end
        lambda: insert(_live).from_select(["block"], select(chunks.c.block).distinct().order_by(chunks.c.block))
    )

    def __init__(self, path: Path) -> None:
        self._database = Database(path, "read")
        try:
            self._database.keep_temporary_tables_in_files(_CACHE_KIB)
            self._attach()
            self._database.pin()
            self._create(self._rows_table)
            self._make()
            self._database.unpin()
        except BaseException:
            self._database.close()
            raise

    def _attach(self) -> None:
        """Opens other databases beside the index, if the scan needs any."""

    def _make(self) -> None:
        """Fills the table."""
        raise NotImplementedError

    def _create(self, table: Table) -> None:
        self._database.execute(ddl(CreateTable(table)))

    def _find_live(self) -> None:
        """Fills the table of live blocks."""
        self._create(_live)
        self._fill_live.all()

    def _pages(self) -> Iterator[list[Row]]:
        """The rows in order, each behind its place, some at a time."""
        after = 0
        while rows := self._page.all(after, PAGE_ROWS):
            yield rows
            after = rows[-1][0]

    def _rows(self) -> Iterator[Row]:
        """The same, one by one."""
        return chain.from_iterable(self._pages())

    def _ids(self) -> Iterator[list[int]]:
        """The ids of a scan of ids, some at a time."""
        for page in self._pages():
            yield [row[1] for row in page]


def _of_pack(*values: Any) -> Select[Any]:
    """Sums over the blocks of each pack."""
    counted = (func.count().label("blocks"), func.sum(blocks.c.stored_length).label("block_bytes"))
    return select(blocks.c.pack, *counted, *values).group_by(blocks.c.pack)


def _with_sums(of_pack: Select[Any], *columns: Any) -> Select[Any]:
    """Columns of all packs, and those sums, which are 0 where no block lies in the pack."""
    sums = of_pack.subquery("sums")
    values = (func.coalesce(value, 0) for value in list(sums.c)[1:])
    return select(*columns, *values).select_from(packs.outerjoin(sums, sums.c.pack == packs.c.id))


_PACK: Final = (packs.c.name, packs.c.size, packs.c.born, packs.c.died)


class PackScan(_Scan):
    """All packs, by name."""

    _rows_table = _pack_rows
    _page = _page_of(_pack_rows)
    _fill = Statement(lambda: _filled(_pack_rows, _with_sums(_of_pack(), *_PACK).order_by(packs.c.name)))
    _every = Statement(
        lambda step: select(_pack_rows.c.name).where(_pack_rows.c.place % step == 0).order_by(_pack_rows.c.place)
    )

    def _make(self) -> None:
        self._fill.all()

    def __iter__(self) -> Iterator[PackContents]:
        for row in self._rows():
            yield PackContents(*row[1:])

    def every(self, step: int) -> list[str]:
        """The name of each pack whose place in that order is a multiple of `step`."""
        return [name for (name,) in self._every.all(step)]


def _uses() -> Select[Any]:
    is_dead = _live.c.block.is_(None)
    of_pack = _of_pack(
        func.count(_live.c.block).label("live_blocks"),
        func.sum(case((is_dead, 0), else_=blocks.c.stored_length)).label("live_bytes"),
    ).select_from(blocks.outerjoin(_live, _live.c.block == blocks.c.id))
    return _with_sums(of_pack, packs.c.id, *_PACK)


class PackUseScan(_Scan):
    """All packs with how much of each is used, oldest first, or by name."""

    _rows_table = _use_rows
    _page = _page_of(_use_rows)
    _fill = Statement(lambda: _filled(_use_rows, _uses().order_by(packs.c.id)))
    _fill_by_name = Statement(lambda: _filled(_use_rows, _uses().order_by(packs.c.name)))

    def __init__(self, path: Path, *, by_name: bool = False) -> None:
        self._by_name = by_name
        super().__init__(path)

    def _make(self) -> None:
        self._find_live()
        (self._fill_by_name if self._by_name else self._fill).all()

    def __iter__(self) -> Iterator[PackUse]:
        for row in self._rows():
            yield PackUse(*row[1:])


class NeededPackScan(_Scan):
    """The names of the packs in which a live block lies."""

    _rows_table = _needed_rows
    _fill = Statement(
        lambda: _filled(
            _needed_rows,
            select(packs.c.name)
            .distinct()
            .select_from(PLACED_BLOCKS)
            .where(blocks.c.id.in_(select(_live.c.block)))
            .order_by(packs.c.name),
        )
    )
    _is_there = Statement(lambda name: select(_needed_rows.c.name).where(_needed_rows.c.name == name))

    def _make(self) -> None:
        self._find_live()
        self._fill.all()

    def __contains__(self, name: object) -> bool:
        return self._is_there.one(name) is not None


class DeadBlockScan(_Scan):
    """The ids of the blocks that no chunk names, outside of packs born at `young` or later."""

    _rows_table = _dead_rows
    _page = _page_of(_dead_rows)
    _fill = Statement(
        lambda young: _filled(
            _dead_rows,
            select(blocks.c.id)
            .where(
                blocks.c.id.not_in(select(_live.c.block)),
                blocks.c.pack.in_(select(packs.c.id).where(packs.c.born < young)),
            )
            .order_by(blocks.c.id),
        )
    )

    def __init__(self, path: Path, young: int) -> None:
        self._young = young
        super().__init__(path)

    def _make(self) -> None:
        self._find_live()
        self._fill.all(self._young)

    def __iter__(self) -> Iterator[list[int]]:
        """Some at a time."""
        return self._ids()


class EmptyPackScan(_Scan):
    """The ids of the packs that are not dead, were born before `young`, and in which no block lies."""

    _rows_table = _empty_rows
    _page = _page_of(_empty_rows)
    _fill = Statement(
        lambda young: _filled(
            _empty_rows,
            select(packs.c.id)
            .where(packs.c.died.is_(None), packs.c.born < young, packs.c.id.not_in(select(blocks.c.pack)))
            .order_by(packs.c.id),
        )
    )

    def __init__(self, path: Path, young: int) -> None:
        self._young = young
        super().__init__(path)

    def _make(self) -> None:
        self._fill.all(self._young)

    def __iter__(self) -> Iterator[list[int]]:
        """Some at a time."""
        return self._ids()


class DeadPackScan(_Scan):
    """The packs that are dead, oldest first."""

    _rows_table = _dead_pack_rows
    _page = _page_of(_dead_pack_rows)
    _fill = Statement(
        lambda: _filled(_dead_pack_rows, select(*_PACK).where(packs.c.died.is_not(None)).order_by(packs.c.id))
    )

    def _make(self) -> None:
        self._fill.all()

    def __iter__(self) -> Iterator[DeadPack]:
        for row in self._rows():
            yield DeadPack(*row[1:])


class LiveBlockScan(_Scan):
    """The live blocks of packs, by the packs' names, in the order in which they lie there. Where each lies is read when
    it is asked for; one that has moved by then is left out.

    Args:
        path: the index.
        packs: the ids of those packs; None for all.
        after: without `packs`, only those of greater names.
    """

    _rows_table = _live_rows
    _page = Statement(
        lambda after, limit: (
            select(_live_rows.c.place, *LOCATION)
            .select_from(
                _live_rows.outerjoin(
                    blocks, (blocks.c.id == _live_rows.c.block) & (blocks.c.pack == _live_rows.c.pack)
                ).outerjoin(packs, packs.c.id == blocks.c.pack)
            )
            .where(_live_rows.c.place > after)
            .order_by(_live_rows.c.place)
            .limit(limit)
        )
    )
    _choose = Statement(lambda pack: upsert(_chosen).values(pack=pack).on_conflict_do_nothing())
    _choose_after = Statement(
        lambda after: insert(_chosen).from_select(
            ["pack"], select(packs.c.id).where(packs.c.name > after).order_by(packs.c.id)
        )
    )
    _fill = Statement(
        lambda: _filled(
            _live_rows,
            select(blocks.c.id, blocks.c.pack)
            .select_from(PLACED_BLOCKS)
            .where(blocks.c.pack.in_(select(_chosen.c.pack)), blocks.c.id.in_(select(_live.c.block)))
            .order_by(packs.c.name, blocks.c.offset),
        )
    )

    def __init__(self, path: Path, packs: Iterable[int] | None = None, after: str = "") -> None:
        self._packs, self._after = packs, after
        super().__init__(path)

    def _make(self) -> None:
        self._find_live()
        self._create(_chosen)
        if self._packs is None:
            self._choose_after.all(self._after)
        else:
            self._choose.fill((pack,) for pack in self._packs)
        self._fill.all()

    def __iter__(self) -> Iterator[list[BlockLocation]]:
        """Those of one pack after the other."""
        there = (row for row in self._rows() if row[2] is not None)
        for _, group in groupby(there, key=lambda row: row[2]):
            yield [BlockLocation(*row[1:]) for row in group]


class UncopiedBlockScan(_Scan):
    """The blocks that the files of an index need, and that its copy has not, or knows to be lost, as they lie in packs.

    Args:
        path: the index.
        copy: the index of the copy.
        ledger: which block of the copy stands for which (`cas3fs.index.ledger`).
    """

    _rows_table = _uncopied_rows
    _page = Statement(
        lambda after, limit: (
            select(_uncopied_rows.c.place, *LOCATION)
            .select_from(
                _uncopied_rows.join(blocks, blocks.c.id == _uncopied_rows.c.block).join(
                    packs, packs.c.id == blocks.c.pack
                )
            )
            .where(_uncopied_rows.c.place > after)
            .order_by(_uncopied_rows.c.place)
            .limit(limit)
        )
    )
    _fill = Statement(
        lambda: _filled(
            _uncopied_rows,
            select(blocks.c.id)
            .select_from(PLACED_BLOCKS)
            .where(
                blocks.c.id.in_(select(_live.c.block)),
                ~exists(
                    select(_copy_blocks.c.id)
                    .select_from(
                        _copied.join(block_hashes, block_hashes.c.prefix == prefix_of(_copied.c.hash)).join(
                            _copy_blocks,
                            (_copy_blocks.c.id == block_hashes.c.block) & (_copy_blocks.c.hash == _copied.c.hash),
                        )
                    )
                    .where(
                        _copied.c.source == blocks.c.hash,
                        _copy_blocks.c.id.not_in(select(_copy_lost.c.block)),
                    )
                ),
            )
            .order_by(packs.c.name, blocks.c.offset),
        )
    )
    _sum = Statement(
        lambda: select(func.coalesce(func.sum(blocks.c.plain_length), 0)).select_from(
            _uncopied_rows.join(blocks, blocks.c.id == _uncopied_rows.c.block)
        )
    )

    def __init__(self, path: Path, copy: Path, ledger: Path) -> None:
        self._copy, self._ledger = copy, ledger
        super().__init__(path)

    def _attach(self) -> None:
        self._database.attach(self._copy, _COPY)
        self._database.attach(self._ledger, _LEDGER)

    _fill_hashes = Statement(lambda: fill_from(_copy_blocks, temporary_hashes))

    def _make(self) -> None:
        self._find_live()
        self._create(temporary_hashes)
        self._fill_hashes.all()
        self._fill.all()

    @property
    def size_bytes(self) -> int:
        """Of all of them, plain."""
        return int(self._sum.one()[0])

    def __iter__(self) -> Iterator[list[BlockLocation]]:
        """Some at a time."""
        for page in self._pages():
            yield [BlockLocation(*row[1:]) for row in page]
