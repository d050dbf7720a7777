# SPDX-License-Identifier: GPL-3.0-or-later
"""What a put asks of an S3 server beyond storing the bytes, and how the store finds out what the server supports.

A put asks for two things: that no such object exists (``If-None-Match: *``), and that the server verifies a digest of
the bytes. SHA-256 is tried first. A server that supports it repeats it in its response; a server that does not repeat
it has not verified it and gets ``Content-MD5`` from then on, which nearly all servers verify. A server that refuses
SHA-256 (400, 501) gets MD5 too, and one that then still responds 501 does not support the condition. A server that has
refused a put with 412 does support it: a later 501 comes from something in between.

So the methods are, in this order: SHA-256 with the condition, MD5 with the condition, MD5 without.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

Digest = Literal["sha256", "md5"]
_PIECE_BYTES: Final = 1 << 20
_UNKNOWN_HEADER_CODES: Final = frozenset(
    {"InvalidRequest", "InvalidArgument", "InvalidHeader", "UnsupportedHeader", "UnsupportedParameter", "BadRequest"}
)
"""With 400, servers send these codes for a header that they do not support."""


class PutMethod(NamedTuple):
    """What the next put asks for."""

    is_conditional: bool
    digest: Digest
    condition_is_proven: bool = False
    """Whether the server has proved that it honours the condition."""

    def next_after_refusal(self, status: int, code: str) -> "PutMethod | None":
        """The method to try after an error; None where the error is not about unsupported headers."""
        is_unknown = status == 501 or (status == 400 and code in _UNKNOWN_HEADER_CODES)
        if is_unknown and self.digest == "sha256":
            return self._replace(digest="md5")
        if status == 501 and self.is_conditional and not self.condition_is_proven:
            return self._replace(is_conditional=False)
        return None

    def after_success(self, response: Mapping[str, Any]) -> "PutMethod":
        """The method for further puts, given the response to this one."""
        return self if response.get("ChecksumSHA256") else self._replace(digest="md5")

    def with_proven_condition(self) -> "PutMethod":
        """This method, after the server honoured its condition."""
        return self._replace(condition_is_proven=self.is_conditional)

    def merged_with(self, other: "PutMethod") -> "PutMethod":
        """This method, with what another thread has learned about the server meanwhile."""
        return self._replace(
            condition_is_proven=self.is_conditional and (self.condition_is_proven or other.condition_is_proven)
        )


FIRST_PUT_METHOD: Final = PutMethod(is_conditional=True, digest="sha256")


def digest_parameters(digest: Digest, content: Any) -> dict[str, str]:
    """The parameters with the digest of `content`: bytes, or a file from its position on, which is left unchanged."""
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
