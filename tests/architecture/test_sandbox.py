# SPDX-License-Identifier: GPL-3.0-or-later
"""A session fails if a test leaves something behind, and says clearly why mounting is impossible."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
IMPORTABLE = {"PYTHONPATH": str(CONFTEST.parents[1])}


def run_pytest(folder: Path, test: str, conftest: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a separate session over `test`, with the shared fixtures."""
    (folder / "conftest.py").write_text(conftest or CONFTEST.read_text())
    (folder / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    environment = {**os.environ, **IMPORTABLE, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_process_that_is_left_running_fails_the_session_and_is_killed(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "import subprocess\ndef test(): subprocess.Popen(['sleep', '1000'])\n")
    found = re.search(r"process (\d+): sleep 1000", done.stdout)
    assert done.returncode == 1
    assert found is not None
    assert not Path(f"/proc/{found[1]}/cmdline").exists() or not Path(f"/proc/{found[1]}/cmdline").read_bytes()


def test_a_temporary_file_that_is_left_fails_the_session_and_is_deleted(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "import tempfile\ndef test(): tempfile.mkdtemp(prefix='left-')\n")
    found = re.search(r"file or folder (\S+left-\S+)", done.stdout)
    assert done.returncode == 1
    assert found is not None
    assert not Path(found[1]).exists()


def test_a_session_that_leaves_nothing_passes(tmp_path: Path) -> None:
    test = "def test(tmp_path, workspace): (tmp_path / 'a').touch(); (workspace / 'b').touch()\n"
    done = run_pytest(tmp_path, test)
    assert done.returncode == 0, done.stdout


def test_tests_do_not_see_the_credentials_of_the_user(tmp_path: Path) -> None:
    test = "import os\ndef test(): assert 'AWS_PROFILE' not in os.environ and 'CAS3FS_STATE_DIR' not in os.environ\n"
    done = run_pytest(tmp_path, test, AWS_PROFILE="mine", CAS3FS_STATE_DIR="/mine")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("wish", "words", "status"), [("1", "1 skipped", 0), ("", "there is no /dev/fuse", 1)])
def test_without_dev_fuse_mount_tests_fail_with_a_reason_or_are_skipped_on_request(
    tmp_path: Path, wish: str, words: str, status: int
) -> None:
    conftest = CONFTEST.read_text().replace('"/dev/fuse"', '"/dev/fuse-is-not-here"')
    done = run_pytest(tmp_path, "def test(need_fuse): pass\n", conftest, CAS3FS_TEST_NO_FUSE=wish)
    assert done.returncode == status
    assert words in done.stdout


def test_a_session_that_gets_sigterm_cleans_up(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_it.py").write_text(
        "import subprocess, sys\n"
        "def test(sandbox):\n"
        "    child = subprocess.Popen(['sleep', '1000'])\n"
        "    print(sandbox, child.pid, file=sys.__stdout__, flush=True)\n"
        "    child.wait()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "."]
    environment = {**os.environ, **IMPORTABLE}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        sandbox, child = session.stdout.readline().split()
        session.terminate()
        session.communicate(timeout=60)
    assert session.returncode != 0
    assert not Path(sandbox).exists()
    assert not Path(f"/proc/{child}").exists()
