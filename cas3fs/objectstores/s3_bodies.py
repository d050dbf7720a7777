# SPDX-License-Identifier: GPL-3.0-or-later
"""The body of an answer of S3, as it arrives.

What is asked of the connection in one piece is the very bytes that the caller gets: nothing is copied but where it is
longer than `PIECE_BYTES`. Each piece is a sign of life.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Final, Protocol

from cas3fs.errors import TruncatedBody
from cas3fs.objectstores.base import too_long

PIECE_BYTES: Final = 1 << 20


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
