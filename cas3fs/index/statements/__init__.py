# SPDX-License-Identifier: GPL-3.0-or-later
"""The statements of the index, written with SQLAlchemy Core; a module for each that runs them, and `schema`.

What runs is their texts, which are kept in `cas3fs.index.texts`: to import SQLAlchemy and to compile all of them takes
0.2 seconds, at each start of each command. `keeping` writes them; who changes a statement runs::

    python cas3fs/index/statements && ruff check --fix cas3fs/index/texts; ruff format cas3fs/index/texts

A test holds that what is kept is what SQLAlchemy makes of the statements.
"""
