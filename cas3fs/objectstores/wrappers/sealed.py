# SPDX-License-Identifier: GPL-3.0-or-later
"""Encryption: what is put is sealed, and what is read is opened (`cas3fs.encryption.sealing` has the format).

To its callers a sealed store has the plain bytes: sizes and offsets are those of the plain bytes, also in listings. It
is the outermost wrapper, so that an attempt to put again puts the same sealed bytes.

Some objects are stored as they are: what is needed to open a volume, and objects that test the store. User metadata is
dropped, but for the kind of an entry: anybody who may list the bucket could read it.

An object whose bytes are not what was sealed under its name raises ObjectDamaged. Where its size alone shows that, a
listing has it with a size of 0, which no object of a volume has.

A part of an object can be read once its header is known. The name of a pack tells it. For other objects the headers of
the last ones that were put or read are remembered, manifests carry those of pages entries (`seal_of`), and otherwise
one more request reads it.

Locks: `_lock` guards the table of headers; nothing is requested under it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from cas3fs.encryption.ciphers import SealBroken
from cas3fs.encryption.keyring import ObjectKeys
from cas3fs.encryption.sealing import (
    HEADER_BYTES,
    PIECE_BYTES,
    SEALED_PIECE_BYTES,
    ObjectSeal,
    PieceSpan,
    SealHeader,
    plain_size,
    sealed_size,
)
from cas3fs.errors import (
    GenerationUnknown,
    KeysError,
    ObjectDamaged,
    ObjectMissing,
    ObjectTooLong,
    ObjectTooShort,
)
from cas3fs.objectstores.base import (
    Body,
    ListPage,
    ObjectInfo,
    ObjectStore,
    check_metadata,
    check_range,
    object_too_long,
    object_too_short,
)
from cas3fs.objectstores.wrappers.wrapper import RequestKind, Result, StoreWrapper
from cas3fs.values import Buffer

_REMEMBERED_HEADERS: Final = 4096
_CLEAR_PREFIXES: Final = ("keys/", "keyring/", "probe/", "damaged/")
_KIND: Final = "cas3-kind"


def is_clear(key: str) -> bool:
    """Whether the object of that key is stored as it is."""
    return key == "volume" or key.startswith(_CLEAR_PREFIXES)


class SealedStore(StoreWrapper):
    """The plain objects of an encrypted volume.

    Args:
        inner: the store, with its other wrappers.
        keys: of the volume.
        renew: reads the keys again, when an object was sealed with a generation that is not known.
        notice: reads the keys again if they have changed.
    """

    def __init__(
        self,
        inner: ObjectStore,
        keys: ObjectKeys,
        renew: Callable[[], ObjectKeys] | None = None,
        notice: Callable[[], ObjectKeys] | None = None,
    ) -> None:
        super().__init__(inner)
        self.pads = True
        self._keys = keys
        self._renew = renew
        self._notice = notice
        self._lock = threading.Lock()
        self._headers: OrderedDict[str, SealHeader] = OrderedDict()

    @property
    def stored(self) -> ObjectStore:
        return self._inner

    def around(self, kind: RequestKind, size_bytes: int | None, request: Callable[[], Result]) -> Result:
        return request()

    def hash_content(self, data: Buffer) -> bytes:
        return self._keys.hash_content(data)

    def name_content(self, data: Buffer) -> str:
        return self._keys.name_content(data)

    # Keys

    @property
    def generation(self) -> int:
        return self._keys.generation

    def renew_keys(self) -> None:
        if self._notice is not None:
            self._keys = self._notice()

    def generation_of(self, key: str) -> int:
        header = self._header_of(key)
        return 0 if header is None else header.generation

    def sealing_key_of(self, key: str) -> bytes:
        header = self._header_of(key)
        return b"" if header is None else self._keys.key_bytes_of(key, header)

    def _header_of(self, key: str) -> SealHeader | None:
        """The header of an object; None where it has none, or is missing. That of a pack is in its name."""
        known = self._known_header(key)
        if known is not None:
            return known
        try:
            header = SealHeader.decode(self._inner.get_range(key, 0, HEADER_BYTES))
        except (SealBroken, ObjectMissing, ObjectTooShort):
            return None
        if not is_clear(key):
            self._remember(key, header)
        return header

    # Headers

    def seal_of(self, key: str) -> str:
        with self._lock:
            header = self._headers.get(key)
        return "" if header is None else header.encode().hex()

    def learn_seal(self, key: str, seal: str) -> None:
        try:
            self._remember(key, SealHeader.decode(bytes.fromhex(seal)))
        except (SealBroken, ValueError):
            return  # the header is read from the object

    def _remember(self, key: str, header: SealHeader) -> None:
        with self._lock:
            self._headers[key] = header
            self._headers.move_to_end(key)
            if len(self._headers) > _REMEMBERED_HEADERS:
                self._headers.popitem(last=False)

    def _known_header(self, key: str) -> SealHeader | None:
        in_name = SealHeader.in_name(key)
        if in_name is not None:
            return in_name
        with self._lock:
            return self._headers.get(key)

    def _decode_header(self, key: str, stored: Buffer) -> SealHeader:
        """The header at the beginning of an object, which must be that of its name where the name tells it."""
        try:
            header = SealHeader.decode(stored)
        except SealBroken:
            raise _damaged(self.url, key) from None
        in_name = SealHeader.in_name(key)
        if in_name is not None and in_name != header:
            raise _damaged(self.url, key)
        if in_name is None:
            self._remember(key, header)
        return header

    def _seal_for(self, key: str, header: SealHeader) -> ObjectSeal:
        try:
            return ObjectSeal(self._keys.key_of(key, header), header)
        except GenerationUnknown as error:
            if self._renew is None:
                raise ObjectDamaged(f"{self.url}: {error}") from error
        try:
            self._keys = self._renew()
            return ObjectSeal(self._keys.key_of(key, header), header)
        except KeysError as error:
            raise ObjectDamaged(f"{self.url}: {error}") from error

    # Putting

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        if is_clear(key):
            self._inner.put_if_absent(key, body, metadata)
            return
        check_metadata(metadata)
        in_name = SealHeader.in_name(key)
        header = in_name or SealHeader.random(self._keys.generation)
        plain = body if isinstance(body, bytes | bytearray | memoryview) else body.read()
        shown = {name: value for name, value in metadata.items() if name == _KIND}
        self._inner.put_if_absent(key, self._seal_for(key, header).seal(plain), shown)
        if in_name is None:
            self._remember(key, header)

    # Reading

    def get(self, key: str) -> bytes:
        stored = self._inner.get(key)
        return stored if is_clear(key) else self._opened(key, stored)

    def get_within(self, key: str, limit_bytes: int) -> bytes:
        if is_clear(key):
            return self._inner.get_within(key, limit_bytes)
        try:
            return self._opened(key, self._inner.get_within(key, sealed_size(limit_bytes)))
        except ObjectTooLong:
            raise object_too_long(key, limit_bytes) from None

    def _opened(self, key: str, stored: bytes) -> bytes:
        try:
            return self._seal_for(key, self._decode_header(key, stored)).open(stored)
        except SealBroken:
            raise _damaged(self.url, key) from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        pieces: list[bytes] = []
        self.get_pieces(key, start, (length,), pieces.append)
        return pieces[0]

    def get_pieces(self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None]) -> None:
        if is_clear(key):
            self._inner.get_pieces(key, start, lengths, take)
            return
        check_range(start, min((0, *lengths)))
        length = sum(lengths)
        wanted = _Recut(start, lengths, take)
        span = PieceSpan.of(start, length)

        def opened(number: int, plain: bytes) -> None:
            position = number * PIECE_BYTES
            if number == span.last and position + len(plain) < start + length:
                raise object_too_short(key, start, length)
            wanted.add(position, plain)

        if length:
            self._open_pieces(key, span, opened)

    def _open_pieces(self, key: str, span: PieceSpan, take: Callable[[int, bytes], None]) -> None:
        """Read and open pieces; pass each with its number.

        Raises:
            ObjectTooShort: the object ends before the last of them begins.
        """
        header = self._known_header(key)
        with_header = header is None and span.first == 0
        if header is None and not with_header:
            header = self._decode_header(key, self._inner.get_range(key, 0, HEADER_BYTES))
        seal = None if header is None else self._seal_for(key, header)
        number = span.first

        def arrived(stored: bytes) -> None:
            nonlocal seal, number
            if seal is None:
                seal = self._seal_for(key, self._decode_header(key, stored))
                return
            take(number, self._open_piece(key, seal, number, stored))
            number += 1

        lengths = [HEADER_BYTES] if with_header else []
        lengths += [SEALED_PIECE_BYTES] * span.pieces
        self._inner.get_pieces_to_end(key, 0 if with_header else span.stored_start, lengths, arrived)

    def _open_piece(self, key: str, seal: ObjectSeal, number: int, stored: bytes) -> bytes:
        try:
            return seal.open_piece(number, stored)
        except SealBroken:
            raise _damaged(self.url, key) from None

    def get_pieces_to_end(self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None]) -> None:
        ObjectStore.get_pieces_to_end(self, key, start, lengths, take)

    # Sizes

    def head(self, key: str) -> ObjectInfo:
        return _plain_info(self._inner.head(key))

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        page = self._inner.list_page(prefix, start_after)
        return ListPage([_plain_info(info) for info in page.objects], page.next_start)


class _Recut:
    """Cuts opened pieces anew, into the pieces that a caller wants.

    Args:
        start: offset of the first wanted byte.
        lengths: of the wanted pieces.
        take: called with each.
    """

    def __init__(self, start: int, lengths: Sequence[int], take: Callable[[bytes], None]) -> None:
        self._position = start
        self._wanted: Iterator[int] = iter(lengths)
        self._take = take
        self._held: list[bytes] = []
        self._missing = 0
        self.is_done = False
        self._next()

    def add(self, offset: int, plain: bytes) -> None:
        """Take over an opened piece, which lies at `offset`."""
        position = self._position - offset
        while not self.is_done and position < len(plain):
            part = plain[position : position + self._missing]
            position += len(part)
            self._missing -= len(part)
            self._held.append(part)
            if not self._missing:
                self._deliver()
        self._position = offset + max(position, 0)

    def _deliver(self) -> None:
        held, self._held = self._held, []
        self._take(held[0] if len(held) == 1 else b"".join(held))
        self._next()

    def _next(self) -> None:
        """Begin the next wanted piece; empty ones are delivered at once."""
        for length in self._wanted:
            self._missing = length
            if length:
                return
            self._take(b"")
        self.is_done = True


def _plain_info(info: ObjectInfo) -> ObjectInfo:
    return info if is_clear(info.key) else info._replace(size=plain_size(info.size) or 0)


def _damaged(url: str, key: str) -> ObjectDamaged:
    return ObjectDamaged(
        f"{url}: the object {key} is damaged or forged: its bytes are not what was sealed under that name"
    )
