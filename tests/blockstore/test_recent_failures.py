# SPDX-License-Identifier: GPL-3.0-or-later
"""A read that has just failed after a long wait is not retried at once."""

from collections.abc import Callable, Iterable

import pytest

from cas3fs.blockstore import BlockReader
from cas3fs.blockstore.in_flight import FAILURE_REPEATED_S
from cas3fs.errors import StoreUnreachable
from cas3fs.values import BlockLocation
from tests.blockstore.conftest import Block, TestStore, make_block

OpenReader = Callable[..., BlockReader]
PutPack = Callable[[Iterable[Block]], list[BlockLocation]]
LARGE = 200_000


def test_repeating_a_long_failed_read_fails_at_once(
    open_reader: OpenReader, put_pack: PutPack, store: TestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [make_block(seed, LARGE) for seed in range(2)]
    lost, other = put_pack(blocks)
    now_s = [100.0]

    def time_out(key: str, start: int, length: int) -> bytes:
        store.requests.append((key, start, length))
        now_s[0] += 60
        raise StoreUnreachable("no response")

    reader = open_reader(clock=lambda: now_s[0])
    with monkeypatch.context() as patch:
        patch.setattr(store, "get_range", time_out)
        for _ in range(5):
            with pytest.raises(StoreUnreachable, match="no response"):
                reader.read(lost, 0, 1)
        assert len(store.requests) == 1
        now_s[0] += FAILURE_REPEATED_S
        with pytest.raises(StoreUnreachable):
            reader.read(lost, 0, 1)
        assert len(store.requests) == 2
    assert reader.read(other, 0, LARGE) == blocks[1][1]
    assert reader.read(lost, 0, LARGE) == blocks[0][1]  # the store responds again
