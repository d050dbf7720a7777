# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.schema`."""

CREATE = (
    (
        "\n"
        "CREATE TABLE blocks (\n"
        "\tid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, \n"
        "\thash BLOB NOT NULL, \n"
        "\tpack INTEGER NOT NULL, \n"
        '\t"offset" INTEGER NOT NULL, \n'
        "\tstored_length INTEGER NOT NULL, \n"
        "\tplain_length INTEGER NOT NULL\n"
        ")\n"
        "\n"
    ),
    "CREATE UNIQUE INDEX uq_blocks_hash ON blocks (hash)",
    (
        "\n"
        "CREATE TABLE chunks (\n"
        "\tinode INTEGER NOT NULL, \n"
        '\t"offset" INTEGER NOT NULL, \n'
        "\tlength INTEGER NOT NULL, \n"
        "\tblock INTEGER NOT NULL, \n"
        "\tskip INTEGER NOT NULL, \n"
        '\tPRIMARY KEY (inode, "offset")\n'
        ")\n"
        " WITHOUT ROWID\n"
        "\n"
    ),
    (
        "\n"
        "CREATE TABLE dentries (\n"
        "\tid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, \n"
        "\tparent INTEGER NOT NULL, \n"
        "\tname BLOB NOT NULL, \n"
        "\tinode INTEGER NOT NULL, \n"
        "\tCONSTRAINT uq_dentries_parent_name UNIQUE (parent, name)\n"
        ")\n"
        "\n"
    ),
    "CREATE INDEX ix_dentries_inode ON dentries (inode)",
    "CREATE INDEX ix_dentries_parent ON dentries (parent)",
    (
        "\n"
        "CREATE TABLE inodes (\n"
        "\tid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, \n"
        "\tmode INTEGER NOT NULL, \n"
        "\tuid INTEGER NOT NULL, \n"
        "\tgid INTEGER NOT NULL, \n"
        "\tnlink INTEGER NOT NULL, \n"
        "\trdev INTEGER NOT NULL, \n"
        "\tsize INTEGER NOT NULL, \n"
        "\tatime_ns INTEGER NOT NULL, \n"
        "\tmtime_ns INTEGER NOT NULL, \n"
        "\tctime_ns INTEGER NOT NULL, \n"
        "\tcrtime_ns INTEGER NOT NULL, \n"
        "\tstored_seq INTEGER NOT NULL, \n"
        "\tchunk_count INTEGER DEFAULT '0' NOT NULL, \n"
        "\tchunk_sum INTEGER DEFAULT '0' NOT NULL\n"
        ")\n"
        "\n"
    ),
    ("\nCREATE TABLE lost_blocks (\n\tblock INTEGER NOT NULL, \n\tPRIMARY KEY (block)\n)\n\n"),
    (
        "\n"
        "CREATE TABLE packs (\n"
        "\tid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, \n"
        "\tname TEXT NOT NULL, \n"
        "\tsize INTEGER NOT NULL, \n"
        "\tborn INTEGER NOT NULL, \n"
        "\tdied INTEGER, \n"
        "\tCONSTRAINT uq_packs_name UNIQUE (name)\n"
        ")\n"
        "\n"
    ),
    ("\nCREATE TABLE symlinks (\n\tinode INTEGER NOT NULL, \n\ttarget BLOB NOT NULL, \n\tPRIMARY KEY (inode)\n)\n\n"),
    (
        "\n"
        "CREATE TABLE volume_state (\n"
        '\t"key" TEXT NOT NULL, \n'
        "\tvalue TEXT NOT NULL, \n"
        '\tPRIMARY KEY ("key")\n'
        ")\n"
        " WITHOUT ROWID\n"
        "\n"
    ),
    (
        "\n"
        "CREATE TABLE xattrs (\n"
        "\tinode INTEGER NOT NULL, \n"
        "\tname BLOB NOT NULL, \n"
        "\tvalue BLOB NOT NULL, \n"
        "\tPRIMARY KEY (inode, name)\n"
        ")\n"
        " WITHOUT ROWID\n"
        "\n"
    ),
    (
        "\n"
        "CREATE TABLE alembic_version (\n"
        "\tversion_num VARCHAR(32) NOT NULL, \n"
        "\tCONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)\n"
        ")\n"
        "\n"
    ),
)
CREATE_STAGING = (
    (
        "\n"
        "CREATE TABLE meta (\n"
        '\t"key" TEXT NOT NULL, \n'
        "\tvalue TEXT NOT NULL, \n"
        '\tPRIMARY KEY ("key")\n'
        ")\n"
        " WITHOUT ROWID\n"
        "\n"
    ),
    (
        "\n"
        "CREATE TABLE staged (\n"
        "\tinode INTEGER NOT NULL, \n"
        "\tseq INTEGER NOT NULL, \n"
        "\tfloor INTEGER, \n"
        "\tsize INTEGER NOT NULL, \n"
        "\tmtime_ns INTEGER NOT NULL, \n"
        "\tctime_ns INTEGER NOT NULL, \n"
        "\tranges BLOB NOT NULL, \n"
        "\tdata BLOB, \n"
        "\tlost BLOB, \n"
        "\tPRIMARY KEY (inode, seq)\n"
        ")\n"
        "\n"
    ),
)
ADD_LOST = "ALTER TABLE staged ADD COLUMN lost BLOB"
TABLES = (
    "alembic_version",
    "blocks",
    "chunks",
    "dentries",
    "inodes",
    "lost_blocks",
    "packs",
    "symlinks",
    "volume_state",
    "xattrs",
)
INDEXES = (
    "ix_dentries_inode",
    "ix_dentries_parent",
    "uq_blocks_hash",
)
TRIMMED = "uq_blocks_hash"
CREATE_TRIMMED = "CREATE UNIQUE INDEX uq_blocks_hash ON blocks (hash)"
DROP_TRIMMED = "\nDROP INDEX IF EXISTS uq_blocks_hash"
