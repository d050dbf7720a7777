# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixtures, in another project that uses cas3fs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cas3fs.testing.fake_memcached import FakeMemcached
    from cas3fs.testing.fake_s3 import FakeS3
    from cas3fs.testing.volumes import TemporaryMount, TemporaryVolume


def run_pytest(folder: Path, text: str, **environment: str) -> str:
    (folder / "test_it.py").write_text(text)
    options = ["-q", "-rs", "-p", "no:cacheprovider", f"--rootdir={folder}", f"--basetemp={folder}/temporary"]
    command = [sys.executable, "-m", "pytest", *options, str(folder)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    return done.stdout + done.stderr


def test_another_project_has_the_fixtures_without_an_import(tmp_path: Path) -> None:
    out = run_pytest(
        tmp_path,
        "def test_s3(fake_s3): fake_s3.put_object(Bucket='bucket', Key='a', Body=b'')\n"
        "def test_memcached(fake_memcached): assert fake_memcached.set('a', b'1')\n"
        "def test_volume(cas3fs_volume): assert cas3fs_volume.report('stats', cas3fs_volume.url)['files'] == 0\n",
    )
    assert "3 passed" in out


def test_another_project_can_have_an_encrypted_volume(tmp_path: Path) -> None:
    out = run_pytest(
        tmp_path,
        "import pytest\n"
        "@pytest.fixture\n"
        "def cas3fs_mkfs_options(): return ('--encrypt', '--label', 'mine')\n"
        "def test_volume(cas3fs_volume, tmp_path):\n"
        "    other = cas3fs_volume.on_another_machine(tmp_path)\n"
        "    assert other.report('stats', other.url)['label'] == 'mine'\n"
        "    assert b'mine' not in (cas3fs_volume.folder / 'store' / 'volume').read_bytes()\n",
    )
    assert "1 passed" in out


def test_where_mounting_is_impossible_the_test_is_skipped_with_the_reason(tmp_path: Path) -> None:
    out = run_pytest(tmp_path, "def test(cas3fs_mount): assert False\n", CAS3FS_TEST_NO_FUSE="1")
    assert "1 skipped" in out
    assert "cannot mount: CAS3FS_TEST_NO_FUSE=1" in out


def test_loading_the_plugin_imports_no_heavy_library() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import cas3fs.testing.plugin; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if not name.startswith("cas3fs")} == set()


def test_the_fakes_are_empty_for_every_test(fake_s3: "FakeS3", fake_memcached: "FakeMemcached") -> None:
    assert fake_s3.list_objects_v2(Bucket="bucket")["KeyCount"] == 0
    assert fake_memcached.stats()[b"curr_items"] == 0


def test_a_mount_keeps_what_is_written_also_on_another_machine(
    need_fuse: None, cas3fs_mount: "TemporaryMount", cas3fs_volume: "TemporaryVolume"
) -> None:
    (cas3fs_mount / "file").write_bytes(b"content" * 1000)
    cas3fs_mount.again(keep_cache=False, keep_state=False)
    assert (cas3fs_mount / "file").read_bytes() == b"content" * 1000
    assert cas3fs_mount.stats()["files"] == 1


def test_the_error_of_a_volume_that_cannot_be_made_says_why(cas3fs_volume: "TemporaryVolume") -> None:
    from cas3fs.errors import MountError

    with pytest.raises(MountError, match=r"mkfs: .*already"):
        cas3fs_volume.run("mkfs", "--no-encrypt", cas3fs_volume.url)
