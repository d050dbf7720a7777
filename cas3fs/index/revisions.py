# SPDX-License-Identifier: GPL-3.0-or-later
"""The ids of the migrations; kept here so that a start need import neither Alembic nor SQLAlchemy to know them."""

from typing import Final

REVISIONS: Final = ("0001", "0002")
"""All of them, oldest first."""

SCHEMA_REVISION: Final = REVISIONS[-1]
