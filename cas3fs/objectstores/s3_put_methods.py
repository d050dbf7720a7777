# SPDX-License-Identifier: GPL-3.0-or-later
"""What a put asks of an S3 server beyond storing the bytes, and how it is found out what the server knows.

Two things are asked: that nothing is there yet (``If-None-Match: *``), and that the bytes that arrive have a digest.
S3's SHA-256 goes first; its answer repeats it. A server that does not repeat it has not verified it, and gets
``Content-MD5`` from then on, which nearly all of them verify. One that refuses SHA-256 (400, 501) gets it too, and one
that then still answers 501 does not know conditions. A condition that was once refused with 412 is known: a later 501
is a fault of something in between.

So: SHA-256 with the condition, MD5 with the condition, MD5 without.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

Digest = Literal["sha256", "md5"]
_PIECE_BYTES: Final = 1 << 20
_NOT_KNOWN: Final = frozenset(
    {"InvalidRequest", "InvalidArgument", "InvalidHeader", "UnsupportedHeader", "UnsupportedParameter", "BadRequest"}
)
"""Codes with which servers refuse, with 400, a header that they do not know."""


class PutMethod(NamedTuple):
    """What the next put asks for."""

    is_conditional: bool
    digest: Digest
    has_honoured: bool = False
    """Whether the server is known to heed the condition."""

    def after_refusal(self, status: int, code: str) -> "PutMethod | None":
        """The way to try when the server answered like this; None where it knows what was asked."""
        is_unknown = status == 501 or (status == 400 and code in _NOT_KNOWN)
        if is_unknown and self.digest == "sha256":
            return self._replace(digest="md5")
        if status == 501 and self.is_conditional and not self.has_honoured:
            return self._replace(is_conditional=False)
        return None

    def after_success(self, answer: Mapping[str, Any]) -> "PutMethod":
        """The way of the next puts, when this one was answered like this."""
        return self if answer.get("ChecksumSHA256") else self._replace(digest="md5")

    def once_honoured(self) -> "PutMethod":
        """This way, when the condition was heeded."""
        return self._replace(has_honoured=self.is_conditional)

    def with_knowledge_of(self, other: "PutMethod") -> "PutMethod":
        """This way, with what was learned meanwhile."""
        return self._replace(has_honoured=self.is_conditional and (self.has_honoured or other.has_honoured))


FIRST_WAY: Final = PutMethod(is_conditional=True, digest="sha256")


def digests_of(digest: Digest, content: Any) -> dict[str, str]:
    """The parameters with the digest of `content`: bytes, or a file from its position on, which it keeps."""
    made = hashlib.sha256() if digest == "sha256" else hashlib.md5(usedforsecurity=False)
    if isinstance(content, bytes | bytearray):
        made.update(content)
    else:
        start = content.tell()
        while piece := content.read(_PIECE_BYTES):
            made.update(piece)
        content.seek(start)
    encoded = base64.b64encode(made.digest()).decode()
    return {"ChecksumSHA256": encoded} if digest == "sha256" else {"ContentMD5": encoded}
