# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in memory whose requests fail as a script says, before or after they are applied."""

from collections.abc import Callable, Iterable, Mapping

from cas3fs.objectstores import Body, ListPage, ObjectInfo
from cas3fs.objectstores.memory import MemoryStore


class ScriptedStore(MemoryStore):
    """Each request takes the next line of the script; with None, or after its end, it succeeds."""

    def __init__(self, *script: Exception | None, page_size: int = 1000) -> None:
        super().__init__("scripted", page_size=page_size)
        self.script = list(script)
        self.applied_before_failing = False
        self.requests: list[str] = []
        self.closed = 0
        self.on_request: Callable[[], object] = lambda: None

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        failure = self._next("put")
        if failure is None or self.applied_before_failing:
            super().put_if_absent(key, body, metadata)
        if failure is not None:
            raise failure

    def get(self, key: str) -> bytes:
        self._follow("get")
        return super().get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._follow("get_range")
        return super().get_range(key, start, length)

    def head(self, key: str) -> ObjectInfo:
        self._follow("head")
        return super().head(key)

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        self._follow("list")
        return super().list_page(prefix, start_after)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._follow("delete")
        super().delete_many(keys)

    def close(self) -> None:
        self.closed += 1

    def _follow(self, request: str) -> None:
        failure = self._next(request)
        if failure is not None:
            raise failure

    def _next(self, request: str) -> Exception | None:
        self.requests.append(request)
        self.on_request()
        return self.script.pop(0) if self.script else None
