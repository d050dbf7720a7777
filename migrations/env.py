# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by Alembic: all steps happen on the one connection that `cas3fs.index.migrations` hands over."""

from alembic import context

from cas3fs.index.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot change a column in place: Alembic then copies the table
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
