# SPDX-License-Identifier: GPL-3.0-or-later
"""What only SQLite has, apart from transactions: catalogue, checks, pragmas, triggers, databases beside one."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

CatalogueRow = tuple[str, str, int]
"""An object of the database: its type (table, index, trigger, view), name and root page (0: it has none)."""


class SQLiteFeatures:
    """A part of `cas3fs.index.sqlite.Database`. Every method raises `IndexDatabaseError` and its kinds, and nothing
    else.

    Attributes:
        unsynced: databases beside this one whose commits need not be synced, once no transaction is open.
    """

    def __init__(self) -> None:
        self.unsynced: list[str] = []

    @abstractmethod
    def execute(self, text: str) -> list[tuple[object, ...]]:
        """Runs a statement without parameters and returns its rows."""

    @abstractmethod
    def change(self, text: str) -> None:
        """Runs a change without parameters within the group."""

    def catalogue(self) -> list[CatalogueRow]:
        """All objects of the database."""
        return self.execute("SELECT type, name, rootpage FROM sqlite_master")  # type: ignore[return-value]

    def has(self, kind: str, name: str) -> bool:
        """Whether the database has a table or an index of that name."""
        return any(one[:2] == (kind, name) for one in self.catalogue())

    @property
    def page_count(self) -> int:
        """How many pages it has, free ones included."""
        return int(str(self.execute("PRAGMA page_count")[0][0]))

    @property
    def foreign_commits(self) -> int:
        """A number that changes when this connection sees that another one has committed."""
        return int(str(self.execute("PRAGMA data_version")[0][0]))

    def quick_check(self, limit: int) -> list[str]:
        """What is wrong with the structure of the file, at most `limit` lines."""
        return self._problems(f"quick_check({limit})")

    def integrity_check(self, scope: int | str) -> list[str]:
        """The same, and what tables and their indexes disagree about, row by row: in all tables, at most so many lines,
        or in the table of that name."""
        return self._problems(f"integrity_check({scope})")

    def _problems(self, pragma: str) -> list[str]:
        return [str(line) for (line,) in self.execute(f"PRAGMA {pragma}") if line != "ok"]

    @property
    def user_version(self) -> int:
        """A number that a program may store in the header of the file; 0 in a new one."""
        return int(str(self.execute("PRAGMA user_version")[0][0]))

    def set_user_version(self, version: int) -> None:
        """Sets that number, within the transaction."""
        self.execute(f"PRAGMA user_version={version}")

    def has_temporary(self, kind: str, name: str) -> bool:
        """Whether this connection has a temporary table or trigger of that name."""
        return (kind, name) in self.execute("SELECT type, name FROM temp.sqlite_master")

    def move_log_by_itself(self, pages: int) -> None:
        """From now on a commit of this connection moves the log into the file when it has so many pages; 0: never."""
        self.execute(f"PRAGMA wal_autocheckpoint={pages}")

    def move_log(self) -> tuple[bool, int, int]:
        """Moves pages from the log into the file, as far as readers of older states allow it, without waiting for any.
        Returns whether another connection moves some, how many pages the log has, and how many are in the file."""
        ((is_busy, frames, moved),) = self.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return bool(is_busy), int(str(frames)), int(str(moved))

    def attach(self, path: Path, name: str) -> None:
        """Opens another database for reading beside this one: its tables are there as ``name.table``."""
        self.execute(f"ATTACH DATABASE 'file:{quote(str(path.absolute()))}?mode=ro' AS {name}")

    def attach_beside(self, path: Path, name: str, cache_kib: int) -> None:
        """Opens another database for writing in the same transactions: it is this connection's alone, is never synced,
        and anything after a crash. May come within a transaction; then its first commit is synced nevertheless."""
        self.execute(f"ATTACH DATABASE 'file:{quote(str(path.absolute()))}?mode=rw' AS {name}")
        for pragma in ("journal_mode=MEMORY", "locking_mode=EXCLUSIVE", f"cache_size=-{cache_kib}"):
            self.execute(f"PRAGMA {name}.{pragma}")
        self.unsynced.append(name)

    def detach(self, name: str) -> None:
        """Closes such a database; only while nothing is uncommitted."""
        self.unpin()
        self.execute(f"DETACH DATABASE {name}")

    @abstractmethod
    def unpin(self) -> None:
        """Ends a read transaction."""

    def add_column(self, table: str, declaration: str) -> None:
        """Adds a column to a table."""
        self.execute(f"ALTER TABLE {table} ADD COLUMN {declaration}")

    def zero_freed_pages(self) -> None:
        """From now on pages that become free are filled with zeros, without a journal: for a scratch copy."""
        self.execute("PRAGMA secure_delete=ON")
        self.execute("PRAGMA journal_mode=OFF")

    def keep_temporary_tables_in_files(self, cache_kib: int) -> None:
        """Puts temporary tables into a file that no other process sees, and that is deleted with the connection."""
        self.execute("PRAGMA temp_store=FILE")
        self.execute(f"PRAGMA temp.cache_size=-{cache_kib}")

    def watch_column(self, table: str, column: str, notes: str) -> None:
        """From now on each value that the column comes to have is noted as an id in the temporary table `notes`,
        whatever statement of this connection sets it. A note is undone with the change that made it."""
        note = f"BEGIN INSERT OR IGNORE INTO {notes} VALUES (new.{column}); END"
        for event, suffix in (("INSERT", "inserted"), (f"UPDATE OF {column}", "updated")):
            self.change(f"CREATE TEMP TRIGGER IF NOT EXISTS {notes}_{suffix} AFTER {event} ON main.{table} {note}")

    def unwatch_column(self, notes: str) -> None:
        """Ends `watch_column`; the notes stay."""
        for suffix in ("inserted", "updated"):
            self.change(f"DROP TRIGGER IF EXISTS temp.{notes}_{suffix}")

    def drop_log(self) -> None:
        """Makes the database one file without a write-ahead log."""
        self.execute("PRAGMA journal_mode=DELETE")

    def mirror_rows(self, table: str, copy: str, values: str, row: str) -> None:
        """From now on a row of `copy`, which `values` makes of the new row, is entered for each row that is inserted
        into `table`, and the one that meets the condition `row` is deleted with it, whatever statement of this
        connection does it. Nothing is done about rows that change. Undone with the group."""
        insert = f"BEGIN INSERT OR IGNORE INTO {copy} VALUES {values}; END"
        delete = f"BEGIN DELETE FROM {copy} WHERE {row}; END"
        for event, action in (("INSERT", insert), ("DELETE", delete)):
            name = mirror_trigger(copy, event)
            self.change(f"CREATE TEMP TRIGGER IF NOT EXISTS {name} AFTER {event} ON main.{table} {action}")

    def sum_rows(
        self, totals: str, sums: Mapping[str, Mapping[str, str]], changed: Mapping[str, Sequence[str]]
    ) -> None:
        """Makes a temporary table of one row, and from now on adds to it, whatever statement of this connection changes
        a row. Undone with the group.

        Args:
            totals: the name of the temporary table.
            sums: for each table, the names of columns of `totals`, and what a row adds: an expression of ``{row}``.
            changed: for each table, the columns that these expressions use.
        """
        names = [name for one in sums.values() for name in one]
        self.change(f"CREATE TEMP TABLE {totals} ({', '.join(names)})")
        self.change(f"INSERT INTO temp.{totals} VALUES ({', '.join('0' for _ in names)})")
        for table, one in sums.items():
            columns = changed[table]
            differs = " OR ".join(f"old.{column} <> new.{column}" for column in columns)
            added, gone = (
                {name: f"{sign} {text.format(row=row)}" for name, text in one.items()}
                for sign, row in (("+", "new"), ("-", "old"))
            )
            both = {name: f"{added[name]} {gone[name]}" for name, text in one.items() if "{row}" in text}
            for event, changes in (("INSERT", added), ("DELETE", gone), (f"UPDATE OF {', '.join(columns)}", both)):
                name = f"{totals}_{table}_{event.split()[0].lower()}"
                condition = f"WHEN {differs}" if changes is both else ""
                values = ", ".join(f"{column} = {column} {change}" for column, change in changes.items())
                self.change(
                    f"CREATE TEMP TRIGGER {name} AFTER {event} ON main.{table} {condition} "
                    f"BEGIN UPDATE {totals} SET {values}; END"
                )

    def sums(self, totals: str) -> dict[str, int]:
        """The row of such a table."""
        names = [str(column[1]) for column in self.execute(f"PRAGMA temp.table_info({totals})")]
        (row,) = self.execute(f"SELECT * FROM temp.{totals}")
        return dict(zip(names, (int(str(one)) for one in row), strict=True))


def mirror_trigger(copy: str, event: str = "INSERT") -> str:
    """The name of a trigger that `SQLiteFeatures.mirror_rows` makes."""
    return f"{copy}_mirrors_{event.lower()}"
