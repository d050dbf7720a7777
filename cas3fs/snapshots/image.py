# SPDX-License-Identifier: GPL-3.0-or-later
"""What a snapshot is made of: the bytes of a file that does not change while they are read.

Usually that is the index where it lies (`cas3fs.index.index_file.PinnedFile`), sometimes a copy.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from cas3fs.errors import SnapshotError


class Image(Protocol):
    """The bytes of an index."""

    size: int
    """In bytes."""
    folder: Path
    """Where temporary files may be."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from `offset` on; raises Cas3fsError, OSError."""

    def check(self) -> None:
        """Make sure that the bytes that were read are those of one state; raises Cas3fsError if they may not be."""


class FileImage:
    """The bytes of a file that nobody changes; a context that closes it."""

    def __init__(self, path: Path) -> None:
        """Open the file; raises OSError as open(2)."""
        self._path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `__exit__`
        self.size = os.fstat(self._file.fileno()).st_size
        self.folder = path.parent

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """As `Image.read_into`."""
        while buffer:
            count = os.preadv(self._file.fileno(), [buffer], offset)
            if not count:
                raise SnapshotError(f"{self._path} was cut while a snapshot was made of it")
            buffer, offset = buffer[count:], offset + count

    def check(self) -> None:
        """As `Image.check`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
