# SPDX-License-Identifier: GPL-3.0-or-later
"""Syncing folders, and replacing files."""

import errno
import os
from pathlib import Path

import pytest

from cas3fs.durable import replace_file, sync_folder


def test_the_folder_itself_is_synced_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    before = len(list(Path("/proc/self/fd").iterdir()))
    sync_folder(tmp_path)
    assert synced == [tmp_path.stat().st_ino]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_syncing_a_file_as_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")


def test_a_file_that_can_be_lost_is_replaced_without_waiting_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("synced"))
    for text in ("first", "second"):
        replace_file(tmp_path / "file", text, sync=False)
        assert (tmp_path / "file").read_text() == text
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, "first")
    assert path.read_text() == "first"

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk has lost a write")

    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="lost a write"):
            replace_file(path, "second")
    assert path.read_text() == "first"
    replace_file(path, "third")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "third"
