# SPDX-License-Identifier: GPL-3.0-or-later
"""The bodies of requests to S3 and of its answers, as they move.

What is asked of the connection in one piece is the very bytes that the caller gets: nothing is copied but where it is
longer than `PIECE_BYTES`; and what is put from memory is handed to the connection uncopied. Each piece shows that the
line moves, so that a request may take long on a slow one (`Moving`). The connection's limits in time hold for each
piece: bytes that are handed over all at once would have to be through within the limit for one.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import BinaryIO, Final, Protocol

from cas3fs.errors import TruncatedBody
from cas3fs.objectstores.base import body_size, too_long

PIECE_BYTES: Final = 1 << 20
_SENT_BYTES: Final = 1 << 16
"""The least that is handed to the connection in one piece, which asks for less: fewer calls for the same bytes."""


class Moving:
    """For how long the bytes of one request move, from its beginning to the last sign of it."""

    def __init__(self) -> None:
        self._begin_s = self._last_s = time.monotonic()

    def note(self) -> None:
        """They moved just now."""
        self._last_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long they have moved so far."""
        return self._last_s - self._begin_s


class SentBody:
    """What is put, as the connection reads it: bytes, or a file from its position on. Positions count from there."""

    def __init__(self, content: bytes | bytearray | BinaryIO, note: Callable[[], None]) -> None:
        """`note` is called with each piece that the connection takes."""
        self._content = memoryview(content) if isinstance(content, bytes | bytearray) else content
        self._size = body_size(content)
        self._start = 0 if isinstance(self._content, memoryview) else self._content.tell()
        self._position = 0
        self._note = note

    def __len__(self) -> int:
        return self._size

    def read(self, amount_bytes: int | None = None) -> bytes | memoryview:
        """The next bytes, perhaps more than `amount_bytes`; all that are left for None."""
        left = self._size - self._position
        length = left if amount_bytes is None or amount_bytes < 0 else min(left, max(amount_bytes, _SENT_BYTES))
        if isinstance(self._content, memoryview):
            piece: bytes | memoryview = self._content[self._position : self._position + length]
        else:
            piece = self._content.read(length)
        self._position += len(piece)
        self._note()
        return piece

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move there."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        if not isinstance(self._content, memoryview):
            self._content.seek(self._start + self._position)
        return self._position


class Stream(Protocol):
    """What botocore gives for a body."""

    def read(self, amount_bytes: int, /) -> bytes:
        """So many bytes, fewer only at the end."""

    def close(self) -> None:
        """Gives the connection up."""


class AnswerBody:
    """The body of one answer; it is read once, and closed then, whatever happens."""

    def __init__(self, name: str, key: str, stream: Stream, length: int, heard: Callable[[], None]) -> None:
        """`length` is what the answer claims, in bytes; `heard` is called with each piece that arrives."""
        self._name = name
        self._key = key
        self._stream = stream
        self._length = length
        self._heard = heard

    def whole(self, limit_bytes: int | None = None) -> bytes:
        """All of it.

        Raises:
            ObjectTooLong: it claims to be longer than the limit.
            TruncatedBody: it broke off.
        """
        with closing(self._stream):  # its own context manager gives the raw stream, past botocore's checks
            if limit_bytes is not None and self._length > limit_bytes:
                raise too_long(self._key, limit_bytes)
            data = b"".join(self._pieces(None))
        if len(data) != self._length:
            raise self._broke_off(len(data))
        return data

    def hand_out(self, lengths: Sequence[int], take: Callable[[bytes], None]) -> None:
        """All of it, which is as long as `lengths` together, to `take` in pieces of these lengths, as they arrive.

        Raises:
            TruncatedBody: it broke off.
        """
        position = 0
        with closing(self._stream):
            for length in lengths:
                pieces = list(self._pieces(length))
                piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                position += len(piece)
                if len(piece) != length:
                    raise self._broke_off(position)
                take(piece)

    def _pieces(self, length: int | None) -> Iterator[bytes]:
        """The next `length` bytes, all that is left for None."""
        while length is None or length > 0:
            piece = self._stream.read(PIECE_BYTES if length is None else min(length, PIECE_BYTES))
            if not piece:
                return
            self._heard()
            yield piece
            if length is not None:
                length -= len(piece)

    def _broke_off(self, position: int) -> TruncatedBody:
        return TruncatedBody(f"{self._name} broke off after {position} of {self._length} bytes")
