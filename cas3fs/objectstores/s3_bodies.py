# SPDX-License-Identifier: GPL-3.0-or-later
"""The bodies of requests to S3 and of its responses, in pieces.

Bodies are not copied: a piece that is read from the connection is what the caller gets, up to `PIECE_BYTES`, and bytes
in memory are passed to the connection as they are. Each piece proves that the transfer continues, so that a request may
take long over a slow line (`TransferClock`). The connection's timeouts hold for each piece: a body that is passed on at
once would have to be sent within one timeout.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import BinaryIO, Final, Protocol

from cas3fs.errors import TruncatedBody
from cas3fs.objectstores.base import body_size, object_too_long

PIECE_BYTES: Final = 1 << 20
_SENT_BYTES: Final = 1 << 16
"""The least that the connection is given in one piece, although it asks for less: that saves calls."""


class TransferClock:
    """For how long the bytes of one request were in transfer: from its beginning to the last piece."""

    def __init__(self) -> None:
        self._begin_s = self._last_s = time.monotonic()

    def bytes_moved(self) -> None:
        """A piece was transferred just now."""
        self._last_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """The time from the beginning to the last piece."""
        return self._last_s - self._begin_s


class RequestBody:
    """The body of a put, as the connection reads it: bytes, or a file from its position on, which counts as 0."""

    def __init__(self, content: bytes | bytearray | BinaryIO, on_piece: Callable[[], None]) -> None:
        """`on_piece` is called with each piece that the connection takes."""
        self._content = memoryview(content) if isinstance(content, bytes | bytearray) else content
        self._size = body_size(content)
        self._start = 0 if isinstance(self._content, memoryview) else self._content.tell()
        self._position = 0
        self._on_piece = on_piece

    def __len__(self) -> int:
        return self._size

    def read(self, amount_bytes: int | None = None) -> bytes | memoryview:
        """The next bytes, perhaps more than `amount_bytes`; all remaining ones for None."""
        left = self._size - self._position
        length = left if amount_bytes is None or amount_bytes < 0 else min(left, max(amount_bytes, _SENT_BYTES))
        if isinstance(self._content, memoryview):
            piece: bytes | memoryview = self._content[self._position : self._position + length]
        else:
            piece = self._content.read(length)
        self._position += len(piece)
        self._on_piece()
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
    """What botocore returns as a body."""

    def read(self, amount_bytes: int, /) -> bytes:
        """The next bytes, fewer only at the end."""

    def close(self) -> None:
        """Close the connection."""


class ResponseBody:
    """The body of one response; it is read once and closed then, also where reading fails."""

    def __init__(self, name: str, key: str, stream: Stream, length: int, on_piece: Callable[[], None]) -> None:
        """`length` is what the response announces, in bytes; `on_piece` is called with each piece that arrives."""
        self._name = name
        self._key = key
        self._stream = stream
        self.length = length
        self._on_piece = on_piece

    def read_all(self, limit_bytes: int | None = None) -> bytes:
        """The whole body.

        Raises:
            ObjectTooLong: the announced length exceeds the limit.
            TruncatedBody: the body ended early.
        """
        with closing(self._stream):  # its own context manager gives the raw stream, past botocore's checks
            if limit_bytes is not None and self.length > limit_bytes:
                raise object_too_long(self._key, limit_bytes)
            data = b"".join(self._pieces(None))
        if len(data) != self.length:
            raise self._truncated(len(data))
        return data

    def deliver(self, lengths: Sequence[int], take: Callable[[bytes], None]) -> None:
        """Pass the body to `take` in pieces of `lengths`, which add up to its length, as they arrive.

        Raises:
            TruncatedBody: the body ended early.
        """
        position = 0
        with closing(self._stream):
            for length in lengths:
                pieces = list(self._pieces(length))
                piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                position += len(piece)
                if len(piece) != length:
                    raise self._truncated(position)
                take(piece)

    def _pieces(self, length: int | None) -> Iterator[bytes]:
        """The next `length` bytes, or all remaining ones for None."""
        while length is None or length > 0:
            piece = self._stream.read(PIECE_BYTES if length is None else min(length, PIECE_BYTES))
            if not piece:
                return
            self._on_piece()
            yield piece
            if length is not None:
                length -= len(piece)

    def _truncated(self, position: int) -> TruncatedBody:
        return TruncatedBody(f"{self._name} ended after {position} of {self.length} bytes")
