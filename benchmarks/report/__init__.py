# SPDX-License-Identifier: GPL-3.0-or-later
"""Results told: as a table on a terminal, as a page of the documentation, as plots."""
