# SPDX-License-Identifier: GPL-3.0-or-later
"""When files were made, as statx(2) shows it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount

pytestmark = pytest.mark.frontend("kernel", lacks="times of birth")


def birth_s(path: Path) -> float:
    shown = subprocess.run(["stat", "-c", "%.9W", path], capture_output=True, text=True, check=True)
    return float(shown.stdout)


@pytest.mark.promise("times-are-exact")
def test_the_time_of_birth_is_shown_and_never_changes(folder: Path, mount: TemporaryMount) -> None:
    before_s = time.time()
    (folder / "f").write_text("x")
    (folder / "d").mkdir()
    after_s = time.time()
    born_s = [birth_s(folder / "f"), birth_s(folder / "d")]
    assert before_s - 0.1 <= born_s[0] <= born_s[1] <= after_s + 0.1
    os.utime(folder / "f", (5, 5))
    (folder / "f").chmod(0o600)
    (folder / "f").write_text("changed")
    mount.again("-o", "dev,suid", keep_state=False)
    assert [birth_s(folder / "f"), birth_s(folder / "d")] == born_s
