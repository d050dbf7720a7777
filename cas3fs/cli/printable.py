# SPDX-License-Identifier: GPL-3.0-or-later
"""Only printable text is printed: names and labels come from volumes that others may have written, and a terminal obeys
control characters.

Characters that steer a terminal, and those that cannot be encoded, are shown as escapes such as ``\\x1b``; ends of
lines and tabs are left.
"""

import errno
from typing import Any, Final, TextIO

_LEFT: Final = "\n\t"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def printable(text: str) -> str:
    """`text` without characters that steer a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in _LEFT else _escaped(one) for one in text)


def system_error(error: OSError) -> str:
    """What the operating system refused, to what, and what to do where that is known."""
    about = f"{error.filename}: " if error.filename else ""
    text = f"{about}{error.strerror or error}"
    if error.errno in _FULL:
        text += "; free space on the disk of the state directory, or of temporary files, and try again"
    return text


def _escaped(one: str) -> str:
    return one.encode("unicode_escape", "surrogatepass").decode("ascii")


class PrintableStream:
    """A text stream to which only plain text comes."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    def write(self, text: str) -> int:
        return self._inner.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
