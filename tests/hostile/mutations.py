# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes and values as an attacker might make them, or a broken disk."""

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from blake3 import blake3
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

EXTREMES = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


class Edit(NamedTuple):
    """A change of bytes; `place` is a fraction of the length."""

    how: str
    place: float
    length: int
    number: int
    put: bytes


edits: SearchStrategy[list[Edit]] = st.lists(
    st.builds(
        Edit,
        st.sampled_from(["flip", "cut", "double", "insert", "big", "little", "end"]),
        st.floats(0, 1),
        st.integers(1, 64),
        st.sampled_from(EXTREMES),
        st.binary(min_size=1, max_size=16),
    ),
    min_size=1,
    max_size=4,
)
"""Bytes flipped, cut, doubled, put in; numbers replaced by extreme ones."""


def harmed(valid: bytes, changes: list[Edit]) -> bytes:
    """`valid` with those changes."""
    data = bytearray(valid)
    for one in changes:
        place = int(one.place * len(data))
        end = place + one.length
        if one.how == "flip":
            data[place : place + 1] = bytes(byte ^ one.length for byte in data[place : place + 1])
        elif one.how == "cut":
            del data[place:end]
        elif one.how == "double":
            data[place:place] = data[place:end]
        elif one.how == "insert":
            data[place:place] = one.put
        elif one.how == "end":
            del data[place:]
        else:
            size = 1 << one.length % 4
            data[place : place + size] = (one.number % (1 << 8 * size)).to_bytes(size, one.how)  # type: ignore[arg-type]
    return bytes(data)


def mutated(valid: bytes) -> SearchStrategy[bytes]:
    """`valid` with a few changes."""
    return edits.map(lambda changes: harmed(valid, changes))


def bytes_like(valid: bytes) -> SearchStrategy[bytes]:
    """`valid` with changes, or arbitrary bytes."""
    return st.one_of(mutated(valid), st.binary(max_size=256))


json_values: SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([*EXTREMES, *(-one for one in EXTREMES), 10**30, 10**400])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["..", "../../x", "/etc/passwd", "a/../../b", "\ud800", "\x1b[2J", "x\ny", "9" * 300, "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: DrawFn, value: Any) -> Any:
    """A JSON value in which an element, at any depth, is replaced, missing, or duplicated."""
    if isinstance(value, Mapping) and value and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 5)) == 0:
            return {key: one for key, one in value.items() if key != name}
        return {**value, name: draw(changed(value[name]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(value) - 1))
        how = draw(st.sampled_from(["change", "drop", "double"]))
        if how == "change":
            return [*value[:place], draw(changed(value[place])), *value[place + 1 :]]
        return value[:place] + value[place + 1 :] if how == "drop" else [*value, value[place]]
    return draw(json_values)


def sealed(head: Any, data: bytes = b"") -> bytes:
    """The body of an entry with that head and correct checksums."""
    content = head if isinstance(head, bytes) else json.dumps(head).encode()
    start = struct.pack(">8sH2xI", b"CAS3ENTR", 1, len(content)) + content
    start += blake3(start).digest()
    return start + data + blake3(data).digest()


def head_of(body: bytes) -> Any:
    """The head of an entry's body."""
    length = struct.unpack_from(">I", body, 12)[0]
    return json.loads(body[16 : 16 + length])
