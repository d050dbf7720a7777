# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifying: every live block is read back from the store and checked against its hash.

Packs are taken in the order of their names, some at a time; blocks that lie together come with one ranged GET; several
threads fetch, unpack and hash side by side. Where it is stands in a file (`Bookmark`), so that a run that was stopped
by its time limit, or killed, goes on where it was; what was found up to then stands there too.

Memory: a run of at most `RUN_BYTES` for each thread, and the locations of the blocks of `PACKS_AT_ONCE` packs.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

import attrs

from cas3fs.blockstore.plans import Run, coalesce
from cas3fs.blockstore.retrieval import Retrieval
from cas3fs.errors import BlockError, BlockMissing
from cas3fs.index import LOST_PACK, Checker
from cas3fs.maintenance.base import Report, silent
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore
from cas3fs.values import BlockHash, BlockLocation

RUN_BYTES: Final = 16 << 20
PACKS_AT_ONCE: Final = 64
WORKERS: Final = min(8, 2 * (os.cpu_count() or 1))


@attrs.frozen
class Verified:
    """How far a verification has come.

    damaged: blocks whose bytes are wrong or missing, in hex.
    is_complete: all packs were read.
    """

    blocks: int
    bytes: int
    damaged: tuple[str, ...]
    is_complete: bool

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return attrs.asdict(self) | {"damaged": len(self.damaged)}


class Bookmark:
    """Where a verification is, in a JSON file: ``{"after": pack, "blocks": n, "bytes": n, "damaged": [hex, ...]}``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Any]:
        """Where an earlier run has stopped; the beginning if none has."""
        try:
            told = json.loads(self._path.read_text())
            return {"after": str(told["after"]), "blocks": int(told["blocks"]), "bytes": int(told["bytes"])} | {
                "damaged": [str(one) for one in told["damaged"]]
            }
        except (OSError, ValueError, KeyError, TypeError):
            return {"after": "", "blocks": 0, "bytes": 0, "damaged": []}

    def save(self, told: dict[str, Any]) -> None:
        """Notes where the run is."""
        temporary = self._path.with_name(self._path.name + ".new")
        temporary.write_text(json.dumps(told))
        temporary.replace(self._path)

    def clear(self) -> None:
        """The next run begins at the beginning."""
        self._path.unlink(missing_ok=True)


class Verifier:
    """Verifies the blocks of one volume."""

    def __init__(self, store: ObjectStore, bookmark: Bookmark, report: Report = silent) -> None:
        self._retrieval = Retrieval(store, Metrics())
        self._bookmark = bookmark
        self._report = report

    def run(self, index: Path, max_duration_s: float | None = None, *, workers: int = WORKERS) -> Verified:
        """Reads back what was not read yet.

        Raises:
            StoreError: the store failed; the next run goes on.
            IndexDatabaseError, OSError: the local disk failed; the same.
        """
        deadline_s = None if max_duration_s is None else time.monotonic() + max_duration_s
        told = self._bookmark.load()
        with Checker(index) as checker, ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
            total = checker.live_bytes()
            names = [pack.name for pack in checker.packs() if pack.name > told["after"] and pack.name != LOST_PACK]
            for start in range(0, len(names), PACKS_AT_ONCE):
                part = names[start : start + PACKS_AT_ONCE]
                before = names[start - 1] if start else told["after"]
                for blocks in _by_pack(checker, before, len(part), set(part)):
                    self._verify(pool, blocks, told, total, workers)
                    if deadline_s is not None and time.monotonic() > deadline_s:
                        told["after"] = blocks[-1].pack
                        self._bookmark.save(told)
                        return _verified(told, False)
                told["after"] = part[-1]
                self._bookmark.save(told)
        self._bookmark.clear()
        return _verified(told, True)

    def _verify(
        self, pool: ThreadPoolExecutor, blocks: list[BlockLocation], told: dict[str, Any], total: int, workers: int
    ) -> None:
        under_way: set[Future[list[str]]] = set()
        for run in coalesce(blocks, run_bytes=RUN_BYTES // workers):
            under_way.add(pool.submit(self._damaged_in, run))
            if len(under_way) >= workers + 1:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                _take(done, told)
        _take(wait(under_way).done, told)
        told["blocks"] += len(blocks)
        told["bytes"] += sum(block.stored_length for block in blocks)
        self._report({"what": "reading blocks back", "done": told["bytes"], "total": total})

    def _damaged_in(self, run: Run) -> list[str]:
        """The blocks of a run that are not what they should be."""
        try:
            body = self._retrieval.run(run)
        except BlockMissing:
            return [block.hash.hex() for block in run.blocks if not self._is_good(block)]
        return [block.hash.hex() for block in run.blocks if not self._is_in(body, run.start, block)]

    def _is_in(self, body: bytes, start: int, block: BlockLocation) -> bool:
        try:
            self._retrieval.decode(body, start, block)
        except BlockError:
            return False
        return True

    def _is_good(self, block: BlockLocation) -> bool:
        try:
            self._retrieval.block(block)
        except BlockError:
            return False
        return True


def _by_pack(checker: Checker, after: str, count: int, wanted: set[str]) -> Iterator[list[BlockLocation]]:
    """The live blocks of the next packs, about as many at a time as a few packs hold."""
    group: list[BlockLocation] = []
    size_bytes = 0
    for row in checker.live_after(after, count):
        block = BlockLocation(*row)
        if block.pack not in wanted:
            continue
        if group and block.pack != group[-1].pack and size_bytes >= RUN_BYTES * 4:
            yield group
            group, size_bytes = [], 0
        group.append(block)
        size_bytes += block.stored_length
    if group:
        yield group


def _take(done: Iterable[Future[list[str]]], told: dict[str, Any]) -> None:
    for future in done:
        told["damaged"] += future.result()


def _verified(told: dict[str, Any], is_complete: bool) -> Verified:
    return Verified(told["blocks"], told["bytes"], tuple(told["damaged"]), is_complete)


def hashes(verified: Verified) -> list[BlockHash]:
    """The damaged blocks."""
    return [BlockHash(bytes.fromhex(one)) for one in verified.damaged]
