# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps, one a file; `cas3fs.index.schema.REVISIONS` names them in their order."""
