# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of all wrappers: every request passes through one method, `around`."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import TypeVar

from cas3fs.objectstores.base import Body, ListPage, ObjectInfo, ObjectStore, batches, body_size
from cas3fs.values import Buffer

Result = TypeVar("Result")


class RequestKind(Enum):
    """The kinds of requests; the value is the name in metrics."""

    PUT = "put"
    GET = "get"
    HEAD = "head"
    LIST = "list"
    DELETE = "delete"


class StoreWrapper(ObjectStore):
    """A store that passes each request on to the inner store, through `around`."""

    def __init__(self, inner: ObjectStore) -> None:
        self.url = inner.url
        self.pads = inner.pads
        self.lists_side_by_side = inner.lists_side_by_side
        self._inner = inner

    def hash_content(self, data: Buffer) -> bytes:
        return self._inner.hash_content(data)

    def name_content(self, data: Buffer) -> str:
        return self._inner.name_content(data)

    @property
    def stored(self) -> ObjectStore:
        stored = self._inner.stored
        return self if stored is self._inner else stored

    def seal_of(self, key: str) -> str:
        return self._inner.seal_of(key)

    def learn_seal(self, key: str, seal: str) -> None:
        self._inner.learn_seal(key, seal)

    @property
    def last_response_at_s(self) -> float:
        return self._inner.last_response_at_s

    def require_conditional_puts(self) -> None:
        self._inner.require_conditional_puts()

    def share_with_group(self) -> None:
        self._inner.share_with_group()

    def permission_warning(self) -> str:
        return self._inner.permission_warning()

    @abstractmethod
    def around(self, kind: RequestKind, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        """Make a request and return its result.

        Args:
            kind: the kind of request.
            size_bytes: how many bytes it transfers; None where only the result shows that.
            request: makes it.
        """

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        self.around(RequestKind.PUT, body_size(body), lambda: self._inner.put_if_absent(key, body, metadata))

    def get(self, key: str) -> bytes:
        return self.around(RequestKind.GET, None, lambda: self._inner.get(key))

    def get_within(self, key: str, limit_bytes: int) -> bytes:
        return self.around(RequestKind.GET, None, lambda: self._inner.get_within(key, limit_bytes))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.around(RequestKind.GET, length, lambda: self._inner.get_range(key, start, length))

    def get_pieces(
        self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None], *, may_end: bool = False
    ) -> None:
        def request() -> None:
            self._inner.get_pieces(key, start, lengths, take, may_end=may_end)

        self.around(RequestKind.GET, sum(lengths), request)

    def head(self, key: str) -> ObjectInfo:
        return self.around(RequestKind.HEAD, 0, lambda: self._inner.head(key))

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        return self.around(RequestKind.LIST, 0, lambda: self._inner.list_page(prefix, start_after))

    def delete_many(self, keys: Iterable[str]) -> None:
        for batch in batches(keys):
            self._delete_batch(batch)

    def _delete_batch(self, batch: list[str]) -> None:
        self.around(RequestKind.DELETE, 0, lambda: self._inner.delete_many(batch))

    def close(self) -> None:
        self._inner.close()
