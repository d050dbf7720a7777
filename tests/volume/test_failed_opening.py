# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume that could not be opened leaves nothing open: the same process can try again."""

import pytest

from cas3fs.errors import Cas3fsError
from cas3fs.testing.sqlite_faults import SqliteFault, sqlite_faults
from cas3fs.volume.opening import open_writer
from tests.volume.conftest import SETTINGS, Volume

FAULTS_IN_A_ROW = 400


@pytest.mark.parametrize("fault", [SqliteFault.IOERR, SqliteFault.FULL_STATEMENT], ids=lambda one: one.name)
def test_every_fault_of_a_database_leaves_the_next_attempt_free(volume: Volume, fault: SqliteFault) -> None:
    volume.use("here", stored="text")
    failures: list[BaseException] = []
    """With their tracebacks, which keep what was opened and not closed."""
    with sqlite_faults() as faults:
        for statement in (*range(1, 12), *range(12, FAULTS_IN_A_ROW, 6)):
            folders = volume.folders(f"host-{statement}")
            with faults.on(fault, at=statement):
                try:
                    opened = open_writer(volume.store_settings, SETTINGS, folders)
                except (Cas3fsError, MemoryError) as error:
                    failures.append(error)
                else:
                    opened.release_unserved()
                    opened.close()
                    break
            again = open_writer(volume.store_settings, SETTINGS, folders)
            again.release_unserved()
            again.close()
    assert len(failures) > 3
