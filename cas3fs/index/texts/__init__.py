# SPDX-License-Identifier: GPL-3.0-or-later
"""The texts of the statements in `cas3fs.index.statements`, which says why and how they are kept here."""
