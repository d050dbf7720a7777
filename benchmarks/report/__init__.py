# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports of results: as tables on a terminal, as a page of the documentation, and as plots."""
