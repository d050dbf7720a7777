# SPDX-License-Identifier: GPL-3.0-or-later
"""The index on the hashes of blocks goes: a database beside the index finds them (`cas3fs.index.hash_index`).

Snapshots of earlier versions are without it already, and so are indexes made from one: those get the note
``restored_blocks``. The pages of the index become free ones, full of zeros.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Brings the tables of 0003 to those of 0004."""
    op.execute(
        "INSERT OR REPLACE INTO volume_state SELECT 'restored_blocks', '' "
        "WHERE NOT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'uq_blocks_hash')"
    )
    op.execute("PRAGMA secure_delete=ON")
    op.execute("DROP INDEX IF EXISTS uq_blocks_hash")
    op.execute("PRAGMA secure_delete=FAST")
