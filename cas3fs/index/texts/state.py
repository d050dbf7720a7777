# SPDX-License-Identifier: GPL-3.0-or-later
"""Written by ``python cas3fs/index/statements`` from `cas3fs.index.statements.state`."""

from cas3fs.index.prepared import Prepared

GET = Prepared('SELECT volume_state.value FROM volume_state WHERE volume_state."key" = ?')
SET = Prepared(
    'INSERT INTO volume_state ("key", value) VALUES (?, ?) ON CONFLICT ("key") DO UPDATE SET value = excluded.value'
)
REMOVE = Prepared('DELETE FROM volume_state WHERE volume_state."key" = ?')
