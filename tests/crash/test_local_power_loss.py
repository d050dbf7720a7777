# SPDX-License-Identifier: GPL-3.0-or-later
"""A power loss during one step on the local disk: acknowledged changes are there, and the rest is consistent.

Each program is traced and replayed on the simulated disk up to many instants, as in `test_power_loss`, which tests
whole volumes.
"""

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from cas3fs.epochs.claim_file import read_claim_file
from cas3fs.index import Index, StagingIndex
from cas3fs.index.checks import IndexChecker
from tests.crash.simulated_disk import SimulatedDisk, Unsynced
from tests.crash.tracing import operations, traced

MAX_INSTANTS = 40
WRITES = ("open", "write", "pwrite")
START = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1])
acknowledged = os.open(folder.parent / "t" / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def acknowledge(line):
    os.write(acknowledged, f"{line}\\n".encode())
"""
CLAIMS = """
from uuid import UUID
from cas3fs.epochs.claim_file import ClaimRecord, OwnClaim, write_claim_file
for number in range(8):
    write_claim_file(folder / "claim.json", ClaimRecord((OwnClaim(number, UUID(int=number)),)))
    acknowledge(number)
"""
INDEX = """
from cas3fs.index import Index
for life in range(3):
    with Index.open(folder / "index.sqlite", create=True) as index:
        for number in range(3):
            with index.operation():
                inode = index.namespace.last_numbers()[0] + 1
                index.namespace.insert_inodes([(inode, 0o100644, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1)])
                index.namespace.add_entry(1, b"%d%d" % (life, number), inode)
            index.commit()
            index.sync()
            acknowledge(f"{life}{number}")
"""
ROWS = """
from cas3fs.index import StagedRow, StagingIndex
for life in range(3):
    with StagingIndex(folder / "staging.sqlite") as rows:
        for number in range(3):
            rows.save([StagedRow(1, 1 + 3 * life + number, None, 0, 0, 0, b"", b"data")])
            rows.commit()
            acknowledge(1 + 3 * life + number)
"""
PLACE = """
from cas3fs.index import Index
from cas3fs.index.files import put_in_place
def make(path, name):
    with Index.open(path, create=True, scratch=True) as index:
        with index.operation():
            index.namespace.insert_inodes([(2, 0o100644, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1)])
            index.namespace.add_entry(1, name, 2)
        index.commit()
for number in range(4):
    make(folder / "made.sqlite", b"%d" % number)
    put_in_place(folder / "made.sqlite", folder / "index.sqlite")
    acknowledge(number)
"""


def left_by(program: str, workspace: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folder of a program after power losses, each with what was acknowledged before."""
    for name in ("s", "t"):
        (workspace / name).mkdir()
    traced([sys.executable, "-c", START + program, str(workspace / "s")], workspace / "trace")
    done = list(operations(workspace / "trace", [workspace / "s", workspace / "t"]))
    shutil.rmtree(workspace / "s")
    disk, acknowledged, chance = SimulatedDisk(workspace, ["s", "t"]), b"", random.Random(program)
    decisive = [n for n, one in enumerate(done) if one.call not in WRITES or one.path.endswith("/t/acknowledged")]
    instants = chance.sample(decisive, min(MAX_INSTANTS, len(decisive)))
    for number, operation in enumerate(done):
        if operation.path == f"{workspace}/t/acknowledged":
            acknowledged += operation.data
        else:
            disk.do(operation)
        for unsynced in Unsynced if number in instants else ():
            disk.lose_power(workspace / "image", unsynced, number)
            try:
                yield workspace / "image" / "s", acknowledged.decode().split()
            except BaseException as error:
                error.add_note(f"after {operation.call} {operation.path}, the disk has kept {unsynced.value}")
                raise
            shutil.rmtree(workspace / "image")
    assert acknowledged


@pytest.mark.promise("synced-data-survives-a-power-loss")
def test_claims_survive_a_power_loss(workspace: Path) -> None:
    for folder, acknowledged in left_by(CLAIMS, workspace):
        held = read_claim_file(folder / "claim.json").held
        assert held or not acknowledged
        assert all(
            one.epoch >= int(acknowledged[-1]) and one.uuid == UUID(int=one.epoch) for one in held if acknowledged
        )


@pytest.mark.promise("synced-data-survives-a-power-loss")
def test_index_commits_survive_a_power_loss(workspace: Path) -> None:
    for folder, acknowledged in left_by(INDEX, workspace):
        with Index.open(folder / "index.sqlite", create=not acknowledged) as index:
            found = [entry[1].decode() for entry in index.namespace.entries(1, 0, 99)]
        assert found[: len(acknowledged)] == acknowledged
        with IndexChecker(folder / "index.sqlite") as checker:
            assert checker.integrity(thorough=True) == []


@pytest.mark.promise("synced-data-survives-a-power-loss")
def test_staging_rows_survive_a_power_loss(workspace: Path) -> None:
    for folder, acknowledged in left_by(ROWS, workspace):
        with StagingIndex(folder / "staging.sqlite") as rows:
            assert [str(row.seq) for row in rows.rows()][: len(acknowledged)] == acknowledged


@pytest.mark.promise("synced-data-survives-a-power-loss")
def test_a_replaced_index_survives_a_power_loss(workspace: Path) -> None:
    for folder, acknowledged in left_by(PLACE, workspace):
        if acknowledged or (folder / "index.sqlite").exists():
            with Index.open(folder / "index.sqlite") as index:
                (entry,) = index.namespace.entries(1, 0, 99)
            assert int(entry[1]) >= int(acknowledged[-1] if acknowledged else 0)
