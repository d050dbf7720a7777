# SPDX-License-Identifier: GPL-3.0-or-later
"""What `gc` says, and its exit status."""

import json
from pathlib import Path

import pytest

from cas3fs.cli.program import run
from cas3fs.filesystem import ROOT
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStores
from tests.volume.conftest import Volume, delete_snapshots

ORPHANS = ["packs/00000001/" + digit * 64 for digit in "ab"]


@pytest.fixture
def command(tmp_path: Path, faulty_stores: FaultyStores) -> list[str]:
    """gc of a volume in which two uploads were interrupted; the first of them may not be deleted."""
    (tmp_path / "store").mkdir()
    url = (tmp_path / "store").as_uri()
    assert run(["mkfs", "--no-encrypt", url]) == 0
    for key in ORPHANS:
        faulty_stores.without_faults(url).put_if_absent(key, b"half a pack")
    faulty_stores.faults.switch_on(FaultKind.DELETION_REFUSED, keys=ORPHANS[:1])
    return ["gc", url, "--grace", "0s", "--state-dir", str(tmp_path / "s"), "--cache-dir", str(tmp_path / "c")]


@pytest.mark.promise("one-failure-does-not-stop-gc")
def test_what_could_not_be_deleted_is_a_line_and_a_status_of_1(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command) == 1
    told = capsys.readouterr()
    assert "orphans deleted: 1, " in told.out
    (line,) = told.err.splitlines()
    assert line.startswith("cas3fs: 1 objects could not be deleted; a later gc tries again: ")
    assert ORPHANS[0] in line and line.endswith("access denied")
    stats = ["stats", *command[1:2], *command[4:]]
    assert run(stats) == 0
    assert ORPHANS[0] in capsys.readouterr().out


def test_programs_are_told_too(
    command: list[str], capsys: pytest.CaptureFixture[str], faulty_stores: FaultyStores
) -> None:
    capsys.readouterr()
    assert run([*command, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["refused_objects"], len(told["problems"])) == (1, 1)
    faulty_stores.faults.clear()
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_what_snapshots_hold_is_a_line_that_says_when_it_is_freed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = Volume(tmp_path)
    with_file = volume.use("here", one="1")
    opened = volume.open("here")
    opened.filesystem.unlink(ROOT, b"one")
    opened.finish()
    opened.close()
    gc = ["gc", volume.store_settings.url, "--state-dir", str(tmp_path / "here")]
    assert run(gc) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("needed by older snapshots: 146 B; a gc frees it once these are deleted; ")
    assert run([*gc, "--dry-run"]) == 0
    assert with_file in capsys.readouterr().out
    delete_snapshots(volume, "here", with_file)
    assert run(gc) == 0
    assert capsys.readouterr().out.startswith("freed: 1 packs, 146 B\n")
