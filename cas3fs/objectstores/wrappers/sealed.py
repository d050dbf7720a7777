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

from cas3fs.encryption.ciphers import TAG_BYTES, SealBroken
from cas3fs.encryption.keyring import ObjectKeys
from cas3fs.encryption.result_buffer import ResultBuffer
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
    shorten_last,
)
from cas3fs.objectstores.wrappers.wrapper import RequestKind, Result, StoreWrapper
from cas3fs.values import Buffer

_REMEMBERED_HEADERS: Final = 4096
_PIECES_AT_ONCE: Final = 15
"""So many sealed pieces are just under 1 MiB, which stores read without copying it."""
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

    def get_pieces(
        self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None], *, may_end: bool = False
    ) -> None:
        if is_clear(key):
            self._inner.get_pieces(key, start, lengths, take, may_end=may_end)
            return
        check_range(start, min((0, *lengths)))
        if may_end and any(lengths):
            lengths = shorten_last(key, start, lengths, self.head(key).size)
        length = sum(lengths)
        wanted = _Delivery(start, lengths, take)
        if length:
            self._open_pieces(key, start, length, wanted)

    def _open_pieces(self, key: str, start: int, length: int, wanted: "_Delivery") -> None:
        """Read the pieces that contain a range, several at once, and open them for `wanted`.

        Raises:
            ObjectTooShort: the object ends before the range does.
        """
        span = PieceSpan.of(start, length)
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
            if number + _PIECES_AT_ONCE > span.last and _plain_end(number, stored) < start + length:
                raise object_too_short(key, start, length)
            try:
                wanted.open(seal, number, memoryview(stored))
                number += _PIECES_AT_ONCE
            except SealBroken:
                raise _damaged(self.url, key) from None

        lengths = [HEADER_BYTES] if with_header else []
        lengths += [
            min(_PIECES_AT_ONCE, span.pieces - done) * SEALED_PIECE_BYTES
            for done in range(0, span.pieces, _PIECES_AT_ONCE)
        ]
        self._inner.get_pieces(key, 0 if with_header else span.stored_start, lengths, arrived, may_end=True)

    # Sizes

    def head(self, key: str) -> ObjectInfo:
        return _plain_info(self._inner.head(key))

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        page = self._inner.list_page(prefix, start_after)
        return ListPage([_plain_info(info) for info in page.objects], page.next_start)


def _plain_end(first: int, stored: bytes) -> int:
    """The offset at which the plain bytes of pieces end, of which the first has that number."""
    pieces = -(-len(stored) // SEALED_PIECE_BYTES)
    return first * PIECE_BYTES + len(stored) - pieces * TAG_BYTES


class _Delivery:
    """Opens the pieces of an object into those that a caller wants, and delivers each of these when it is full.

    Args:
        start: offset of the first wanted byte.
        lengths: of the wanted pieces.
        take: called with each.
    """

    def __init__(self, start: int, lengths: Sequence[int], take: Callable[[bytes], None]) -> None:
        self._position = start
        self._lengths: Iterator[int] = iter(lengths)
        self._take = take
        self._wanted: ResultBuffer | None = None
        self._free = memoryview(b"")
        """Where the next bytes go."""
        self._next()

    def open(self, seal: ObjectSeal, number: int, sealed: memoryview) -> None:
        """Open pieces from that number on; the very first one has the first wanted byte, and no number is left out.

        Raises:
            SealBroken: they are not these pieces.
        """
        while sealed:
            pieces = 0
            if self._position == number * PIECE_BYTES:
                pieces = min(len(sealed) // SEALED_PIECE_BYTES, len(self._free) // PIECE_BYTES)
            if pieces:
                self._open_whole(seal, number, sealed[: pieces * SEALED_PIECE_BYTES])
            else:
                pieces = 1
                self._open_part(seal, number, sealed[:SEALED_PIECE_BYTES])
            number += pieces
            sealed = sealed[pieces * SEALED_PIECE_BYTES :]

    def _open_whole(self, seal: ObjectSeal, first: int, sealed: memoryview) -> None:
        """Open pieces all of which belongs to one wanted piece: they need not be copied."""
        length = len(sealed) // SEALED_PIECE_BYTES * PIECE_BYTES
        seal.open_pieces_into(first, sealed, self._free[:length])
        self._filled(length)

    def _open_part(self, seal: ObjectSeal, number: int, sealed: memoryview) -> None:
        """Open a piece, and copy the wanted part of it, which may belong to several wanted pieces."""
        plain = memoryview(seal.open_piece(number, sealed))[self._position - number * PIECE_BYTES :]
        while plain and self._wanted is not None:
            part = plain[: len(self._free)]
            plain = plain[len(part) :]
            self._free[: len(part)] = part
            self._filled(len(part))

    def _filled(self, length: int) -> None:
        """The next `length` bytes have arrived."""
        self._position += length
        self._free = self._free[length:]
        if self._wanted is not None and not self._free:
            self._take(self._wanted.finish())
            self._next()

    def _next(self) -> None:
        """Begin the next wanted piece; empty ones are delivered at once."""
        self._wanted = None
        for length in self._lengths:
            if length:
                self._wanted = ResultBuffer(length)
                self._free = self._wanted.view
                return
            self._take(b"")


def _plain_info(info: ObjectInfo) -> ObjectInfo:
    return info if is_clear(info.key) else info._replace(size=plain_size(info.size) or 0)


def _damaged(url: str, key: str) -> ObjectDamaged:
    return ObjectDamaged(
        f"{url}: the object {key} is damaged or forged: its bytes are not what was sealed under that name"
    )
