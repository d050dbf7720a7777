# SPDX-License-Identifier: GPL-3.0-or-later
"""What reads an index through a connection of its own."""

from typing import Self

from cas3fs.index.sqlite import Database


class ConnectionHolder:
    """A context that closes its connection; temporary tables are deleted with it."""

    _database: Database

    def close(self) -> None:
        """Closes the connection."""
        self._database.rollback()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
