# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes that are filled in place, so that the pieces of something large are neither joined nor copied."""

import io


class ResultBuffer:
    """`length` bytes, zeros at first; one thread fills them through `view`, and `finish` returns them.

    `io.BytesIO` returns the very memory that its buffer was, where a ``bytearray`` would have to be copied.
    """

    __slots__ = ("_holder", "view")

    def __init__(self, length: int) -> None:
        self._holder = io.BytesIO(bytes(length))
        self.view: memoryview = self._holder.getbuffer()

    def finish(self) -> bytes:
        """The bytes; nothing can be written to `view` any more."""
        self.view.release()
        return self._holder.getvalue()
