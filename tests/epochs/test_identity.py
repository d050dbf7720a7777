# SPDX-License-Identifier: GPL-3.0-or-later
"""The identity of a machine and of a process."""

from pathlib import Path

import pytest

from cas3fs.epochs import WriterIdentity
from cas3fs.epochs.identity import UNKNOWN_MACHINE, MachineId, local_machine_id


def test_the_ids_of_machine_and_board_are_hashed(tmp_path: Path) -> None:
    machine, board = tmp_path / "machine-id", tmp_path / "product_uuid"
    machine.write_text("0123456789abcdef0123456789abcdef\n")
    board.write_text("03000200-0400-0500-0006-000700080009\n")
    known = local_machine_id((tmp_path / "missing", machine), (board,))
    assert known == local_machine_id((machine,), (board,))
    assert len(known.machine) == len(known.board) == 32
    assert "0123456789abcdef" not in known.machine
    machine.write_text("1123456789abcdef0123456789abcdef\n")
    assert local_machine_id((machine,), (board,)).machine != known.machine


def test_an_invalid_or_unreadable_id_is_unknown(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    for content in ("uninitialized\n", "", "0" * 32, "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "\udcff"):
        odd.write_bytes(content.encode(errors="surrogateescape"))
        assert local_machine_id((odd,), (tmp_path,)) == UNKNOWN_MACHINE


@pytest.mark.promise("a-claim-holds-on-its-own-machine")
def test_an_unknown_id_is_not_compared() -> None:
    one, other = MachineId("a", "1"), MachineId("a", "2")
    assert one.differs(other)
    assert not one.differs(MachineId("a", ""))
    assert not one.differs(UNKNOWN_MACHINE)
    assert MachineId("a").differs(MachineId("b"))


def test_the_identity_of_this_process_has_the_id_of_its_machine() -> None:
    assert WriterIdentity.of_this_process().machine_id == local_machine_id()
