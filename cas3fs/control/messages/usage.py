# SPDX-License-Identifier: GPL-3.0-or-later
"""The request for what files and folders take."""

import attrs

from cas3fs.control.messages.base import Request


@attrs.frozen
class UsageRow:
    """What a file or folder takes; it comes as progress, ``{"usage": [...]}`` for some at a time. Sizes are in
    bytes."""

    root: int
    """Which of the request's `inodes` and `paths`, counted from 0 through both, it is or lies below."""
    depth: int
    path: str
    """Below that; empty for itself."""
    files: int
    folders: int
    logical_bytes: int
    allocated_bytes: int
    unstored_files: int
    unstored_bytes: int
    stored_bytes: int
    unique_bytes: int
    held_bytes: int


@attrs.frozen
class UsageReply:
    """How many rows came as progress."""

    count: int


@attrs.frozen
class UsageRequest(Request[UsageReply]):
    """Report what files and folders take, and each folder at most `depth` levels below them."""

    verb = "du"
    reply = UsageReply
    inodes: list[int]
    """By number, as stat(2) has it."""
    paths: list[str]
    """By path from the root of the volume."""
    depth: int = 0
