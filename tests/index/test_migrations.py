# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations and tables agree, and an upgrade is all or nothing."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from cas3fs.errors import IndexDatabaseError, IndexTooNew
from cas3fs.index import LOST_PACK, Index, migrations, schema, tables
from cas3fs.index.checks import IndexChecker
from cas3fs.values import BlockHash
from tests.index.conftest import add_file

NOW = schema.SCHEMA_REVISION
SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"

NEXT_STEP = '''
"""A step of a later version."""
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "9000", "%s", None, None


def upgrade():
    with op.batch_alter_table("packs") as batch:
        batch.add_column(sa.Column("note", sa.Text()))
    %s
'''


def read(path: Path, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes this a later version, with one step more; the file of that step."""
    folder = tmp_path / "100% later"
    shutil.copytree(migrations.folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    step = folder / "versions" / "9000_next.py"
    step.write_text(NEXT_STEP % (NOW, ""))
    monkeypatch.setattr(migrations, "folder", lambda: folder)
    for module in (migrations, schema):
        monkeypatch.setattr(module, "REVISIONS", (*schema.REVISIONS, "9000"))
        monkeypatch.setattr(module, "SCHEMA_REVISION", "9000")
    return step


def test_all_steps_lead_to_the_tables_word_by_word(path: Path, tmp_path: Path) -> None:
    stepped = tmp_path / "stepped.sqlite"
    migrations.run_steps(stepped)
    Index.open(path, create=True).close()
    assert read(stepped, SCHEMA) == read(path, SCHEMA)
    version = "SELECT version_num FROM alembic_version"
    assert read(stepped, version) == read(path, version) == [(migrations.head(),)]


def test_alembic_finds_nothing_left_to_do(tmp_path: Path) -> None:
    stepped = tmp_path / "stepped.sqlite"
    migrations.run_steps(stepped)
    engine = create_engine(f"sqlite:///{stepped}")
    try:
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    finally:
        engine.dispose()


def test_the_revisions_are_those_of_the_steps() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.folder()))
    steps = [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(steps)) == schema.REVISIONS
    assert migrations.head() == schema.REVISIONS[-1]


def test_upgrading_makes_an_index_where_none_is(path: Path) -> None:
    assert migrations.current(path) is None
    assert migrations.upgrade(path)
    assert migrations.current(path) == migrations.head()
    with Index.open(path) as index:
        assert index.namespace.inode(1) is not None


def test_upgrading_a_current_index_does_nothing_and_needs_no_alembic(path: Path) -> None:
    Index.open(path, create=True).close()
    before = path.read_bytes()
    code = (
        "import sys; from pathlib import Path; from cas3fs.index.migrations import upgrade\n"
        "print(upgrade(Path(sys.argv[1])), 'alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
    assert path.read_bytes() == before


def test_an_older_index_is_upgraded_with_all_it_holds(path: Path, request: pytest.FixtureRequest) -> None:
    with Index.open(path, create=True) as index:
        add_file(index, b"a")
        index.commit()
    request.getfixturevalue("later")
    with pytest.raises(IndexDatabaseError, match="migrated"):
        Index.open(path)
    assert migrations.upgrade(path)
    assert not migrations.upgrade(path)
    with Index.open(path) as index:
        assert index.namespace.child(1, b"a") is not None
    assert ("note",) in read(path, "SELECT name FROM pragma_table_info('packs')")
    assert read(path, "PRAGMA page_size") == [(4096,)]
    assert not list(path.parent.glob("*migrating*"))


def as_of_the_first_revision(path: Path) -> None:
    """An index as the first version made it: files of 0 to 4 chunks, a pack that is known to be lost and one that is
    not, a file that went, and space for ten more numbers."""
    migrations.run_steps(path, "0001")
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO inodes VALUES (1, 16877, 0, 0, 2, 0, 0, 1, 2, 3, 4, 0)")
        for number in range(2, 7):
            database.execute("INSERT INTO inodes VALUES (?, 33188, 0, 0, 1, 0, 90, 1, 2, 3, 4, 5)", (number,))
            database.execute("INSERT INTO dentries (parent, name, inode) VALUES (1, ?, ?)", (b"%d" % number, number))
            for place in range(number - 2):
                database.execute("INSERT INTO chunks VALUES (?, ?, 20, ?, 1)", (number, place * 20, place % 4 + 1))
        database.executemany("INSERT INTO packs VALUES (?, ?, 400, 1, NULL)", [(1, "a"), (2, "ab"), (3, LOST_PACK)])
        database.executemany(
            "INSERT INTO blocks VALUES (?, ?, ?, 0, 100, 100)",
            [(number, bytes([number]) * 32, number % 3 + 1) for number in range(1, 5)],
        )
        database.execute("INSERT INTO volume_state VALUES ('lost_packs', 'ab' || char(10) || 'b')")
        database.execute("UPDATE sqlite_sequence SET seq = 16 WHERE name = 'inodes'")
    database.close()


@pytest.mark.promise("lost-blocks-are-never-deduplicated-onto")
@pytest.mark.parametrize("without_hash_index", [False, True])
def test_an_index_of_the_first_revision_gets_checksums_and_lost_blocks(path: Path, without_hash_index: bool) -> None:
    as_of_the_first_revision(path)
    if without_hash_index:  # as in snapshots of earlier versions
        with sqlite3.connect(path) as database:
            database.execute("DROP INDEX uq_blocks_hash")
        database.close()
    rows = "SELECT id, mode, size, atime_ns, crtime_ns, stored_seq FROM inodes ORDER BY id"
    before = read(path, rows)
    assert migrations.upgrade(path)
    assert read(path, rows) == before
    with IndexChecker(path) as checker:
        assert checker.integrity(thorough=True) == []
        assert checker.defects("chunks-unlike-sums") == []
    assert read(path, "SELECT chunk_count FROM inodes WHERE id > 1 ORDER BY id") == [(0,), (1,), (2,), (3,), (4,)]
    # 1 and 4 lie in ab, 2 in the lost pack, 3 in a
    assert read(path, "SELECT block FROM lost_blocks ORDER BY block") == [(1,), (2,), (4,)]
    with Index.open(path) as index:
        assert add_file(index) == 17
        assert len(index.chunks.spans(6, 0, 100)) == 4
        assert (index.state.get("restored_blocks") is not None) == without_hash_index


def test_an_index_of_the_third_revision_loses_its_index_on_hashes(path: Path) -> None:
    as_of_the_first_revision(path)
    migrations.run_steps(path, "0003")
    assert path.read_bytes().count(bytes([1]) * 32) == 2
    assert migrations.upgrade(path)
    assert path.read_bytes().count(bytes([1]) * 32) == 1  # what was freed is zeros
    assert read(path, "SELECT name FROM sqlite_master WHERE name = 'uq_blocks_hash'") == []
    with Index.open(path) as index:
        assert set(index.blocks.find([BlockHash(bytes([number]) * 32) for number in range(6)])) == {
            bytes([number]) * 32 for number in (2, 3, 1, 4)
        } - {one.hash for one in index.blocks.lost()}
        assert index.state.get("restored_blocks") is None


def test_an_index_of_the_second_revision_gets_flags_and_sizes(path: Path) -> None:
    as_of_the_first_revision(path)
    migrations.run_steps(path, "0002")
    kept = "SELECT id, mode, size, atime_ns, crtime_ns, stored_seq, chunk_count, chunk_sum FROM inodes ORDER BY id"
    before = read(path, kept)
    assert migrations.upgrade(path)
    assert read(path, kept) == before
    added = read(path, "SELECT flags, chunk_bytes FROM inodes WHERE id > 1 ORDER BY id")
    assert added == [(0, 0), (0, 20), (0, 40), (0, 60), (0, 80)]
    with IndexChecker(path) as checker:
        assert checker.defects("chunks-unlike-sums") == []
    with Index.open(path) as index:
        assert add_file(index) == 17


@pytest.mark.promise("migrations-work-on-a-copy")
@pytest.mark.parametrize("fault", ["op.execute('no SQL')", "raise sa.exc.InvalidRequestError('no')"])
def test_a_step_that_fails_leaves_the_index_as_it_was(path: Path, request: pytest.FixtureRequest, fault: str) -> None:
    Index.open(path, create=True).close()
    before = path.read_bytes()
    step: Path = request.getfixturevalue("later")
    step.write_text(NEXT_STEP % (NOW, fault))
    with pytest.raises(IndexDatabaseError):
        migrations.upgrade(path)
    assert path.read_bytes() == before
    assert list(path.parent.glob("index*")) == [path]


def test_a_newer_index_is_refused_and_left_alone(path: Path) -> None:
    Index.open(path, create=True).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(IndexTooNew):
        migrations.upgrade(path)
    assert path.read_bytes() == before
