# SPDX-License-Identifier: GPL-3.0-or-later
"""The index's migrations, run by Alembic; shipped as the package `cas3fs.migrations` (see setup.py)."""
