# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs key``: each key opens the volume, a removed one does not, and nobody is locked out by mistake."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cas3fs.cli.program import run
from cas3fs.encryption.sealing import SealHeader
from cas3fs.encryption.secret import LEAST_MEMORY_KIB, Argon2Parameters


class KeyVolume:
    """An encrypted volume in a directory, and the command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.store = folder / "volume"
        self.store.mkdir()
        self.url = self.store.as_uri()
        self._capsys = capsys
        self.first = self.key_file("first")
        self.cipher = json.loads(self.run("mkfs", "--encrypt", "--json", "--key-file", self.first))["cipher"]

    def key_file(self, name: str) -> str:
        return self.file(name, name.encode() * 16)

    def file(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return str(self.folder / name)

    def run(self, *words: str, status: int = 0) -> str:
        """What a command prints, or the line about its failure."""
        assert run([*words, self.url]) == status
        told = self._capsys.readouterr()
        return told.err if status else told.out

    def key(self, verb: str, *words: str, opened_by: str = "", status: int = 0) -> str:
        by = () if opened_by == "none" else ("--key-file", opened_by or self.first)
        return self.run("key", verb, *by, *words, status=status)

    def report(self, verb: str, *words: str, opened_by: str = "") -> Any:
        return json.loads(self.key(verb, *words, "--json", opened_by=opened_by))

    def remove(self, key_id: str, status: int = 0) -> str:
        assert run(["key", "remove", "--key-file", self.first, self.url, key_id]) == status
        told = self._capsys.readouterr()
        return told.err if status else told.out

    def is_opened_by(self, *words: str) -> bool:
        status = run(["epochs", *words, self.url])
        self._capsys.readouterr()
        return status == 0


@pytest.fixture
def volume(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> KeyVolume:
    cheap = Argon2Parameters(LEAST_MEMORY_KIB, 1)
    monkeypatch.setattr("cas3fs.encryption.secret.calibrated_parameters", lambda: cheap)
    monkeypatch.setenv("CAS3FS_STATE_DIR", str(tmp_path / "state"))
    return KeyVolume(tmp_path, capsys)


@pytest.fixture
def exported(volume: KeyVolume) -> str:
    return volume.file("export.txt", volume.key("export").encode())


# --- list, add, remove, change


def test_a_key_that_was_added_opens_the_volume(volume: KeyVolume) -> None:
    passphrase, second = volume.file("passphrase", b"correct horse\n"), volume.key_file("second")
    volume.key("add", "--new-passphrase-file", passphrase)
    volume.key("add", "--new-key-file", second)
    printed = volume.report("add", "--recovery")["recovery_key"]
    assert volume.is_opened_by("--passphrase-file", passphrase)
    assert volume.is_opened_by("--key-file", second)
    assert volume.is_opened_by("--passphrase-file", volume.file("printed", printed.lower().encode()))
    assert not volume.is_opened_by("--key-file", volume.key_file("third"))


def test_a_recovery_key_is_printed_once_for_people_too(volume: KeyVolume) -> None:
    told = volume.key("add", "--recovery", "--note", "safe")
    printed = re.search(r"^    (\S{4}(?:-\S{4}){13})$", told, re.MULTILINE)
    assert printed is not None
    assert "not shown again" in told
    assert volume.is_opened_by("--passphrase-file", volume.file("printed", printed[1].encode()))
    assert printed[1] not in volume.key("list") + volume.key("list", "--json")


def test_the_list_has_every_key_with_its_note(volume: KeyVolume) -> None:
    volume.key("add", "--recovery", "--note", "the safe in Bern")
    first, second = volume.report("list")
    assert (first["method"], first["note"], first["used_now"]) == ("key-file", "made by mkfs", True)
    assert (second["method"], second["note"], second["used_now"]) == ("recovery", "the safe in Bern", False)
    assert not first["foreign"]
    lines = volume.key("list").splitlines()
    assert lines[2].startswith(second["id"][:12])
    assert lines[2].endswith("recovery    the safe in Bern")


def test_a_damaged_key_is_listed_by_its_id(volume: KeyVolume) -> None:
    added = volume.report("add", "--recovery")["id"]
    path = volume.store / "keys" / added
    path.chmod(0o600)
    path.write_bytes(b"rubbish")
    assert [(one["id"], one["method"]) for one in volume.report("list")][1:] == [(added, None)]
    assert f"{added}  damaged" in volume.key("list")
    volume.remove(added)
    assert len(volume.report("list")) == 1


def test_a_removed_key_opens_nothing(volume: KeyVolume) -> None:
    second = volume.key_file("second")
    added = volume.report("add", "--new-key-file", second)["id"]
    assert "1 left" in volume.remove(added[:6])
    assert not volume.is_opened_by("--key-file", second)
    assert volume.is_opened_by("--key-file", volume.first)


@pytest.mark.parametrize(
    ("asked", "told"),
    [("", "not enough of an id"), ("abc", "not enough of an id"), ("0123456789", "has no key 0123456789")],
)
def test_only_a_key_that_is_named_clearly_is_removed(volume: KeyVolume, asked: str, told: str) -> None:
    volume.key("add", "--recovery")
    assert told in volume.remove(asked, status=2)
    assert len(volume.report("list")) == 2


@pytest.mark.promise("a-change-of-keys-leaves-a-way-in")
def test_the_last_way_in_stays(volume: KeyVolume) -> None:
    (only,) = volume.report("list")
    assert "last key that opens the volume" in volume.remove(only["id"], status=2)
    shutil.copy(volume.store / "keys" / only["id"], volume.store / "keys" / ("0" * 32))  # which opens nothing
    assert "last key that opens the volume" in volume.remove(only["id"], status=2)
    assert volume.is_opened_by("--key-file", volume.first)


def test_a_change_replaces_the_key_that_was_used(volume: KeyVolume) -> None:
    other, new = volume.key_file("other"), volume.key_file("new")
    volume.key("add", "--new-key-file", other, "--note", "other")
    told = volume.report("change", "--new-key-file", new)
    assert told["removed"] != told["id"]
    assert not volume.is_opened_by("--key-file", volume.first)
    assert {one["note"] for one in volume.report("list", opened_by=new)} == {"other", "made by mkfs"}
    volume.key("change", "--recovery", "--note", "by hand", opened_by=new)
    assert {one["note"] for one in volume.report("list", opened_by=other)} == {"other", "by hand"}


def test_a_new_key_is_one_and_is_given(volume: KeyVolume) -> None:
    two = ("--recovery", "--new-key-file", volume.key_file("second"))
    assert "exclude each other" in volume.key("add", *two, status=2)
    assert "no new key was given" in volume.key("add", status=2)
    assert "no new key was given" in volume.key("change", status=2)
    assert "cannot be read" in volume.key("add", "--new-key-file", "/nowhere", status=2)
    assert len(volume.report("list")) == 1


def test_the_environment_has_no_new_key(volume: KeyVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAS3FS_KEY_FILE", volume.first)
    assert "no new key was given" in volume.key("add", opened_by="none", status=2)


def test_more_keys_than_are_tried_cannot_be_made(volume: KeyVolume) -> None:
    (only,) = volume.report("list")
    for number in range(31):
        shutil.copy(volume.store / "keys" / only["id"], volume.store / "keys" / f"f{number:031d}")
    assert "has 32 keys" in volume.key("add", "--recovery", status=2)


@pytest.mark.parametrize("verb", ["list", "add", "change", "export", "rotate"])
def test_a_plain_volume_has_no_keys(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["mkfs", "--no-encrypt", tmp_path.as_uri()])
    assert run(["key", verb, tmp_path.as_uri()]) == 2
    assert "is not encrypted" in capsys.readouterr().err


def test_statistics_show_how_the_volume_is_encrypted(volume: KeyVolume) -> None:
    fingerprint = volume.report("export")["fingerprint"]
    told = json.loads(volume.run("stats", "--json", "--key-file", volume.first))
    assert (told["cipher"], told["fingerprint"]) == (volume.cipher, fingerprint)
    assert f"{volume.cipher}; fingerprint {fingerprint}" in volume.run("stats", "--key-file", volume.first)


# --- export


def test_an_export_opens_the_volume_without_its_keys(volume: KeyVolume, exported: str) -> None:
    assert volume.is_opened_by("--passphrase-file", exported)
    shutil.rmtree(volume.store / "keys")
    assert not volume.is_opened_by("--key-file", volume.first)
    assert "only an exported key opens it" in volume.key("list", status=1)
    second = volume.key_file("second")
    volume.key("add", "--from-export", exported, "--new-key-file", second, opened_by="none")
    assert volume.is_opened_by("--key-file", second)


def test_the_key_of_an_export_can_be_typed_alone(volume: KeyVolume) -> None:
    typed = volume.report("export")["key"].replace("-", " ").lower().replace("o", "0")
    assert volume.is_opened_by("--passphrase-file", volume.file("typed", typed.encode()))


def test_an_export_names_its_volume(volume: KeyVolume, exported: str) -> None:
    text, told = Path(exported).read_text(), volume.report("export")
    assert all(told[name] in text for name in ("url", "uuid", "fingerprint", "key"))
    assert "text" not in told


def test_an_export_opens_no_other_volume(volume: KeyVolume, exported: str) -> None:
    volume.store.rename(volume.folder / "aside")
    volume.store.mkdir()
    volume.run("mkfs", "--encrypt", "--key-file", volume.first)
    told = volume.run("key", "list", "--passphrase-file", exported, status=1)
    assert "that of another volume" in told


def test_an_export_is_no_entry_and_no_new_key(volume: KeyVolume, exported: str) -> None:
    change = volume.run("key", "change", "--passphrase-file", exported, "--recovery", status=2)
    assert "is no key that can be changed" in change
    assert "cannot be a new key" in volume.key("add", "--new-passphrase-file", exported, status=2)
    passphrase = volume.file("passphrase", b"correct horse")
    assert "has no exported key" in volume.key(
        "add", "--from-export", passphrase, "--recovery", opened_by="none", status=2
    )
    assert len(volume.report("list")) == 1


# --- rotate


def generation_of(path: Path) -> int:
    return SealHeader.decode(path.read_bytes()).generation


def test_a_rotation_seals_what_is_new_with_a_new_generation(volume: KeyVolume) -> None:
    volume.run("snapshot", "policy", "--keep-last", "3", "--key-file", volume.first)
    told = volume.key("rotate")
    assert "generation 2" in told
    assert "whoever kept the old keys can read it" in told
    volume.run("snapshot", "policy", "--keep-last", "4", "--key-file", volume.first)
    assert [generation_of(path) for path in sorted((volume.store / "policies").iterdir())] == [1, 2]
    assert len(volume.report("list")) == 1
    assert volume.report("rotate")["generation"] == 3


@pytest.fixture
def many(volume: KeyVolume) -> Callable[[str], str]:
    """A volume with several keys: the id of each by its note."""
    volume.key("add", "--new-key-file", volume.key_file("second"), "--note", "second")
    volume.key("add", "--new-passphrase-file", volume.file("passphrase", b"correct horse"), "--note", "typed")
    volume.key("add", "--recovery", "--note", "lost")
    ids = {one["note"]: one["id"] for one in volume.report("list")}
    return lambda note: str(ids[note])


def test_a_new_root_keeps_the_keys_that_were_shown_again(
    volume: KeyVolume, exported: str, many: Callable[[str], str]
) -> None:
    second, passphrase = str(volume.folder / "second"), str(volume.folder / "passphrase")
    before = volume.report("export")["fingerprint"]
    kept = ("--keep-key-file", second, "--keep-passphrase-file", passphrase, "--drop", many("lost")[:8])
    told = volume.report("rotate", "--root", *kept)
    assert told["removed"] == [many("lost")]
    assert (told["generation"], len(told["kept"])) == (2, 3)
    assert told["fingerprint"] != before
    assert {one["note"] for one in volume.report("list")} == {"made by mkfs", "second", "typed"}
    assert volume.is_opened_by("--key-file", second)
    assert volume.is_opened_by("--passphrase-file", passphrase)
    assert not volume.is_opened_by("--passphrase-file", exported)
    assert {path.name.partition("-")[2] for path in (volume.store / "keyring").iterdir()} == {told["fingerprint"]}


@pytest.mark.promise("a-change-of-keys-leaves-a-way-in")
def test_a_new_root_removes_no_key_that_was_not_named(volume: KeyVolume, many: Callable[[str], str]) -> None:
    told = volume.key("rotate", "--root", "--drop", many("lost"), status=2)
    assert many("second") in told
    assert many("typed") in told
    assert many("lost") not in told
    assert len(volume.report("list")) == 4


def test_a_secret_that_is_no_key_is_not_kept(volume: KeyVolume, many: Callable[[str], str]) -> None:
    told = volume.key("rotate", "--root", "--keep-key-file", volume.key_file("third"), status=2)
    assert "third opens no key of the volume" in told
    assert "no key 0123456" in volume.key("rotate", "--root", "--drop", "0123456", status=2)
    assert "go with --root" in volume.key("rotate", "--drop", many("lost"), status=2)
    assert len(volume.report("list")) == 4


def test_data_are_read_after_a_new_root(volume: KeyVolume) -> None:
    volume.run("snapshot", "policy", "--keep-last", "3", "--key-file", volume.first)
    volume.key("rotate", "--root")
    assert json.loads(volume.run("snapshot", "policy", "--json", "--key-file", volume.first))["last"] == 3
