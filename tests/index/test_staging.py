# SPDX-License-Identifier: GPL-3.0-or-later
"""The records of staging."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cas3fs.errors import IndexDatabaseError, IndexFull, IndexTooNew
from cas3fs.index import StagedRow, StagingIndex


@pytest.fixture
def staging_path(tmp_path: Path) -> Path:
    return tmp_path / "staging.sqlite"


def row(inode: int, seq: int, data: bytes | None = b"data", floor: int | None = None) -> StagedRow:
    return StagedRow(inode, seq, floor, 2**62, -1, 2**60 + 1, b"\0ranges", data)


def test_rows_come_back_as_they_were_in_order(staging_path: Path) -> None:
    rows = [row(2, 1), row(1, 9, None, 0), row(1, 2, b"", 2**62)]
    with StagingIndex(staging_path) as staging:
        staging.save(rows)
        staging.commit()
    with StagingIndex(staging_path) as staging:
        assert list(staging.rows()) == sorted(rows, key=lambda saved: saved[:2])


@pytest.mark.parametrize(("version", "columns"), [(1, ("lost", "holes")), (2, ("holes",))])
def test_rows_of_an_older_version_are_read_and_newer_are_added(
    staging_path: Path, version: int, columns: tuple[str, ...]
) -> None:
    with StagingIndex(staging_path) as staging:
        staging.save([row(1, 1)])
        staging.commit()
    with closing(sqlite3.connect(staging_path)) as database:
        for column in columns:
            database.execute(f"ALTER TABLE staged DROP COLUMN {column}")
        database.execute(f"PRAGMA user_version = {version}")
    with StagingIndex(staging_path) as staging:
        assert list(staging.rows()) == [row(1, 1)]
        staging.save([row(1, 2)._replace(lost=b"ranges", holes=b"more")])
        staging.commit()
    with StagingIndex(staging_path) as staging:
        assert [(one.lost, one.holes) for one in staging.rows()] == [(None, None), (b"ranges", b"more")]


def test_a_row_replaces_the_one_of_the_same_inode_and_sequence(staging_path: Path) -> None:
    with StagingIndex(staging_path) as staging:
        staging.save([row(1, 1, b"old"), row(1, 2)])
        staging.save([row(1, 1, None, 5)])
        assert list(staging.rows()) == [row(1, 1, None, 5), row(1, 2)]


def test_rows_are_deleted_and_missing_ones_are_ignored(staging_path: Path) -> None:
    with StagingIndex(staging_path) as staging:
        staging.save([row(1, 1), row(1, 2)])
        staging.delete([(1, 1), (7, 7)])
        assert list(staging.rows()) == [row(1, 2)]


def test_rows_may_be_deleted_while_they_are_read(staging_path: Path) -> None:
    with StagingIndex(staging_path) as staging:
        staging.save([row(n, 1) for n in range(5)])
        seen = []
        for saved in staging.rows():
            seen.append(saved.inode)
            staging.delete([(saved.inode, 1), (saved.inode + 1, 1)])
        assert seen == [0, 2, 4]


def test_the_claim_is_kept(staging_path: Path) -> None:
    with StagingIndex(staging_path) as staging:
        assert staging.claim is None
        staging.set_claim("one")
        staging.set_claim("two")
    with StagingIndex(staging_path) as staging:
        assert staging.claim == "two"


def test_what_is_not_committed_is_lost(staging_path: Path) -> None:
    with StagingIndex(staging_path) as staging:
        staging.save([row(1, 1)])
        staging.commit(durable=False)
        staging.save([row(2, 1)])
    with StagingIndex(staging_path) as staging:
        assert list(staging.rows()) == [row(1, 1)]


def test_a_commit_is_durable_on_return(staging_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    with StagingIndex(staging_path) as staging:
        monkeypatch.setattr(
            os, "fdatasync", lambda number: synced.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        )
        staging.save([row(1, 1)])
        staging.commit(durable=False)
        assert synced == []
        staging.save([row(1, 2)])
        staging.commit()
        assert synced == [f"{staging_path}-wal"]
        staging.sync()
    assert synced == [f"{staging_path}-wal"]


def test_a_failed_save_undoes_all_since_the_last_commit(staging_path: Path) -> None:
    with StagingIndex(staging_path) as staging:
        staging.save([row(1, 1)])
        staging.commit()
        staging.save([row(2, 1)])
        with pytest.raises(IndexDatabaseError) as caught:
            staging.save([row(3, 1), row(4, 2**63)])
        assert caught.value.group_lost
        staging.commit()
        assert list(staging.rows()) == [row(1, 1)]


def test_a_full_disk_is_reported_and_can_be_recovered_from(staging_path: Path) -> None:
    with StagingIndex(staging_path) as staging:
        connection = staging._database.connection
        connection.execute("PRAGMA max_page_count=20")
        with pytest.raises(IndexFull):
            staging.save([row(1, n, os.urandom(4096)) for n in range(100)])
        connection.execute("PRAGMA max_page_count=100000")
        staging.save([row(1, 1)])
        staging.commit()
        assert list(staging.rows()) == [row(1, 1)]


def test_a_newer_database_is_refused(staging_path: Path) -> None:
    StagingIndex(staging_path).close()
    with sqlite3.connect(staging_path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(IndexTooNew, match="99"):
        StagingIndex(staging_path)


VICTIM = """
import sys
from pathlib import Path
from cas3fs.index import StagedRow, StagingIndex
staging = StagingIndex(Path(sys.argv[1]))
staging.save([StagedRow(n, 1, None, 0, 0, 0, b"", bytes(4096)) for n in range(500)])
staging.commit()
staging.save([StagedRow(1000, 1, None, 0, 0, 0, b"", None)])
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_leaves_the_rows_that_it_committed(staging_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(staging_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"ready\n"
        victim.send_signal(signal.SIGKILL)
    with StagingIndex(staging_path) as staging:
        assert [saved.inode for saved in staging.rows()] == list(range(500))
