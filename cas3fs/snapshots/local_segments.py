# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes segments of a snapshot from files on this machine: indexes of the same volume at other times.

A page of an index keeps its place as long as the index lives, so a segment is looked for where it stands in the
snapshot, and nowhere else. Its hash decides, so it does not matter what the other file is, or that its owner writes
into it meanwhile.

A database that this process has open is left out: POSIX releases all locks that a process has on a file when it closes
any descriptor of that file, and SQLite relies on them.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cas3fs.snapshots.tree import SegmentReference, hash_segment

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalSegments:
    """Open files in which segments are looked for, one after the other; made by `open_local`."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._descriptors = descriptors

    def take(
        self, start: int, segment_size: int, wanted: Iterable[SegmentReference], use: Callable[[int, memoryview], None]
    ) -> list[tuple[int, SegmentReference]]:
        """Pass those of some consecutive segments that are here to `use`, and return the others.

        Args:
            start: the number of the first one.
            segment_size: in bytes; the last segment of a file may be shorter.
            wanted: the segments.
            use: called with the number of each and its bytes.

        Returns:
            Number and reference of each that is not here.
        """
        missing = list(enumerate(wanted, start))
        size = len(missing) * segment_size
        for descriptor in self._descriptors:
            if not missing:
                break
            window = _read(descriptor, size, start * segment_size)
            found: set[int] = set()
            for number, one in missing:
                piece = window[(number - start) * segment_size :][:segment_size]
                if piece and hash_segment(piece) == one.hash:
                    use(number, piece)
                    found.add(number)
            missing = [one for one in missing if one[0] not in found]
        return missing


@contextmanager
def open_local(paths: Iterable[Path]) -> Iterator[LocalSegments]:
    """Open those files that are there, can be read, and are not open in this process."""
    with ExitStack() as opened:
        descriptors: list[int] = []
        for path in paths:
            with suppress(OSError):
                if _is_open_here(path):
                    continue
                descriptors.append(os.open(path, _FLAGS))
                opened.callback(os.close, descriptors[-1])
        yield LocalSegments(descriptors)


def _is_open_here(path: Path) -> bool:
    status = path.lstat()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor of the listing itself is closed
            if os.path.samestat(os.fstat(int(link.name)), status):
                return True
    return False


def _read(descriptor: int, size: int, offset: int) -> memoryview:
    """The bytes of a range; nothing if it cannot be read."""
    try:
        return memoryview(os.pread(descriptor, size, offset))
    except OSError:
        return memoryview(b"")
