# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of staging that the local disk has damaged: one file, or what lay on a page, suffers, and nothing else."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from cas3fs.commands.rescue import choose_state_directory, rescue
from cas3fs.errors import IndexCorrupt, StateConflict
from cas3fs.testing.sqlite_pages import leaf_pages
from tests.commands.test_fsck import fsck
from tests.commands.test_gc import read, silent
from tests.volume.conftest import Volume, read_all, write

PAGE_BYTES = 4096
STAGED = {f"f{number:03}": f"{number:03}" * 200 for number in range(60)}


@pytest.fixture
def killed(volume: Volume) -> Volume:
    """Killed with files that nothing but staging has, and with one that was stored before."""
    volume.use("here", stored="before")
    opened = volume.open("here")
    for name, text in STAGED.items():
        write(opened, name, text)
    opened.filesystem.commit()
    opened.close()
    return volume


def rows_of(volume: Volume) -> Path:
    return volume.state("here") / "staging.sqlite"


def spoil_a_page(volume: Volume) -> bytes:
    """One page of rows becomes garbage; gives the damaged database."""
    page = leaf_pages(rows_of(volume), "staged")[3]
    data = bytearray(rows_of(volume).read_bytes())
    data[(page - 1) * PAGE_BYTES : page * PAGE_BYTES] = b"\xa5" * PAGE_BYTES
    rows_of(volume).write_bytes(bytes(data))
    return bytes(data)


def spoil_a_row(volume: Volume) -> None:
    with closing(sqlite3.connect(rows_of(volume))) as database, database:
        change = "UPDATE staged SET size = -1 WHERE inode = (SELECT max(inode) FROM staged)"
        assert database.execute(change).rowcount == 1


def quarantine_folder(volume: Volume) -> Path:
    return volume.state("here") / "staging" / "aside"


@pytest.mark.promise("a-damaged-record-costs-its-file")
def test_a_damaged_page_of_records_costs_what_lay_on_it(killed: Volume, caplog: pytest.LogCaptureFixture) -> None:
    damaged = spoil_a_page(killed)
    opened = killed.open("here")
    found = read_all(opened)
    whole = {name: text for name, text in STAGED.items() if found[name] == text}
    assert len(STAGED) - 8 <= len(whole) < len(STAGED)
    assert {found[name] for name in STAGED.keys() - whole} == {""}
    assert found["stored"] == "before"
    (kept,) = quarantine_folder(killed).glob("staging.sqlite.*")
    assert kept.read_bytes() == damaged
    assert str(kept) in caplog.text
    assert str(kept) in opened.metrics.last_errors()["staging"].error
    opened.finish()
    opened.close()
    assert read_all(killed.open("here")) == found


def test_a_garbage_staging_database_prevents_no_mount(killed: Volume) -> None:
    rows_of(killed).write_bytes(b"garbage" * 5000)
    found = read_all(killed.open("here"))
    assert found == dict.fromkeys(STAGED, "") | {"stored": "before"}
    assert [path.read_bytes() for path in quarantine_folder(killed).glob("staging.sqlite.*")] == [b"garbage" * 5000]


def test_a_repair_uses_what_is_readable_of_a_damaged_database(killed: Volume) -> None:
    spoil_a_page(killed)
    told, found = fsck(killed)
    assert (told.status, found) == (4, ["staging-damaged"])
    told, found = fsck(killed, repair=True)
    assert told.status == 1 and "staging-damaged" in found
    told, found = fsck(killed)
    assert (told.status, set(found)) == (0, {"staging-put-aside"})
    opened = killed.open("here")
    assert len([name for name, text in STAGED.items() if read(opened, name) == text]) >= len(STAGED) - 8


def test_a_check_names_the_file_of_a_damaged_record(killed: Volume) -> None:
    spoil_a_row(killed)
    told, found = fsck(killed)
    assert (told.status, found) == (4, ["staging-record-damaged"])
    opened = killed.open("here")
    assert read_all(opened) == STAGED | {"f059": "", "stored": "before"}
    opened.finish()
    opened.close()
    told, found = fsck(killed)
    assert (told.status, found) == (0, ["staging-put-aside"])


@pytest.mark.promise("a-damaged-record-costs-its-file")
@pytest.mark.parametrize("is_mounted_before", [False, True])
def test_what_was_damaged_is_saved_by_a_rescue(killed: Volume, tmp_path: Path, is_mounted_before: bool) -> None:
    spoil_a_row(killed)
    if is_mounted_before:
        killed.open("here").close()
    report = rescue(killed.store_settings, killed.state("here"), tmp_path / "saved", silent)
    assert (tmp_path / "saved" / "f058").read_text() == STAGED["f058"]
    assert Path(report["aside"]).parent == tmp_path / "saved"
    kept = {path.suffix: path.read_text() for path in Path(report["aside"]).iterdir()}
    assert kept.keys() == {".json", ".bytes"}
    assert kept[".bytes"] == STAGED["f059"]


def test_a_rescue_reads_what_can_be_read_of_a_damaged_database(killed: Volume, tmp_path: Path) -> None:
    damaged = spoil_a_page(killed)
    report = rescue(killed.store_settings, killed.state("here"), tmp_path / "saved", silent)
    saved = [name for name, text in STAGED.items() if (tmp_path / "saved" / name).read_text() == text]
    assert len(saved) >= len(STAGED) - 8
    assert damaged in [path.read_bytes() for path in Path(report["aside"]).iterdir()]
    assert rows_of(killed).read_bytes() == damaged  # the state directory is only read


@pytest.mark.promise("a-damaged-index-is-refused-with-a-way-out")
@pytest.mark.parametrize("is_there", [True, False], ids=["a damaged index", "no index"])
def test_staged_bytes_without_an_index_are_saved_by_a_rescue(killed: Volume, tmp_path: Path, is_there: bool) -> None:
    opened = killed.open("here")
    write(opened, "large", "l" * 400_000)
    opened.filesystem.commit()
    opened.close()
    index = killed.state("here") / "index.sqlite"
    index.unlink()
    if is_there:
        index.write_bytes(b"garbage" * 5000)
    assert choose_state_directory(killed.state("here")) == killed.state("here")
    report = rescue(killed.store_settings, killed.state("here"), tmp_path / "saved", silent)
    assert "no file has its name" in report["problems"][0] and report["aside"] in report["problems"][0]
    kept = [path.read_text() for path in Path(report["aside"]).iterdir() if path.suffix != ".json"]
    assert "l" * 400_000 in kept


@pytest.mark.promise("a-damaged-index-is-refused-with-a-way-out")
def test_a_damaged_index_is_refused_with_the_repair_command(killed: Volume, tmp_path: Path) -> None:
    (killed.state("here") / "index.sqlite").write_bytes(b"garbage" * 5000)
    with pytest.raises(IndexCorrupt, match="fsck --repair file:"):
        killed.open("here")
    told, found = fsck(killed, repair=True)
    assert (told.status, found) == (1, ["index-damaged"])
    assert read(killed.open("here"), "stored") == "before"
    (aside,) = (killed.state("here") / "set-aside").iterdir()
    report = rescue(killed.store_settings, aside, tmp_path / "saved", silent)
    kept = {path.read_text() for path in Path(report["aside"]).glob("*.bytes")}
    assert kept == set(STAGED.values())


@pytest.mark.promise("a-damaged-index-is-refused-with-a-way-out")
def test_a_damaged_claim_file_is_refused_except_by_a_take_over(killed: Volume, tmp_path: Path) -> None:
    (killed.state("here") / "claim.json").write_bytes(b"\xff{")
    with pytest.raises(StateConflict, match="--take-over"):
        killed.open("here")
    opened = killed.open("here", take_over=True)
    assert read_all(opened) == {"stored": "before"}
    opened.finish()
    opened.close()
    (kept,) = killed.state("here").glob("claim.json.damaged-*")
    assert kept.read_bytes() == b"\xff{"
    (aside,) = (killed.state("here") / "set-aside").iterdir()
    rescue(killed.store_settings, aside, tmp_path / "saved", silent)
    assert {name: (tmp_path / "saved" / name).read_text() for name in STAGED} == STAGED
