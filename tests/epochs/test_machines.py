# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a machine."""

from pathlib import Path

import pytest

from cas3fs.epochs import Identity
from cas3fs.epochs.machines import UNKNOWN, Machine, this_machine


def test_the_ids_of_machine_and_board_are_hashed(tmp_path: Path) -> None:
    machine, board = tmp_path / "machine-id", tmp_path / "product_uuid"
    machine.write_text("0123456789abcdef0123456789abcdef\n")
    board.write_text("03000200-0400-0500-0006-000700080009\n")
    known = this_machine((tmp_path / "missing", machine), (board,))
    assert known == this_machine((machine,), (board,))
    assert len(known.machine) == len(known.board) == 32
    assert "0123456789abcdef" not in known.machine
    machine.write_text("1123456789abcdef0123456789abcdef\n")
    assert this_machine((machine,), (board,)).machine != known.machine


def test_what_cannot_be_read_or_is_no_id_is_not_known(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    for content in ("uninitialized\n", "", "0" * 32, "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "\udcff"):
        odd.write_bytes(content.encode(errors="surrogateescape"))
        assert this_machine((odd,), (tmp_path,)) == UNKNOWN


@pytest.mark.promise("a-claim-holds-on-its-own-machine")
def test_what_is_not_known_is_not_compared() -> None:
    one, other = Machine("a", "1"), Machine("a", "2")
    assert one.differs(other)
    assert not one.differs(Machine("a", ""))
    assert not one.differs(UNKNOWN)
    assert Machine("a").differs(Machine("b"))


def test_a_process_knows_its_machine() -> None:
    assert Identity.of_this_process().home == this_machine()
