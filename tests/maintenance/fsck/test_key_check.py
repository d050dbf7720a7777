# SPDX-License-Identifier: GPL-3.0-or-later
"""fsck looks at every key entry and keyring, also at those that did not open the volume, and needs no secret for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cas3fs.cli.program import run
from cas3fs.encryption.secret import KeyFile
from cas3fs.entries.bodies import encode_body
from cas3fs.entries.kinds import KeyEntry, KeyringEntry
from cas3fs.entries.shelf import Shelf, digest_of
from cas3fs.maintenance.fsck.key_check import check_keys
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.volume.key_reader import Unlocked
from cas3fs.volume.keys import VolumeKeyStore
from tests.volume.test_keys import CHEAP, FIRST, SECOND, VOLUME

Change = Callable[[Shelf, KeyEntry], None]


def saved_again(**values: Any) -> Change:
    """The entry is replaced by one with other values."""

    def change(shelf: Shelf, entry: KeyEntry) -> None:
        shelf.store.delete_many([entry.key])
        shelf.save(entry.changed(**values))

    return change


def flipped(shelf: Shelf, entry: KeyEntry) -> None:
    body = bytearray(shelf.store.get(entry.key))
    body[len(body) // 2] ^= 1
    shelf.store.delete_many([entry.key])
    shelf.store.put_if_absent(entry.key, bytes(body))


DAMAGES: dict[str, tuple[Change, str]] = {
    "a changed bit": (flipped, "cannot be read"),
    "an unknown kind": (saved_again(method="eye-scan"), "'eye-scan' is unknown"),
    "of another volume": (saved_again(root="0" * 32), "no keyring that it opens"),
    "no cost": (saved_again(method="passphrase"), "missing or out of bounds"),
    "huge cost": (
        saved_again(method="passphrase", argon2={"memory_kib": 2**31, "iterations": 9, "lanes": 1}),
        "missing or out of bounds",
    ),
    "nothing for KMS": (saved_again(method="kms", kms_key="arn:aws:kms:key"), "lacks what AWS KMS decrypts"),
    "a short salt": (saved_again(salt=b"s"), "wrong length"),
    "a short commitment": (saved_again(commitment=b"c"), "wrong length"),
    "no root": (saved_again(sealed=b"s" * 16), "wrong length"),
}


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(MemoryStore())


@pytest.fixture
def keys(shelf: Shelf) -> VolumeKeyStore:
    return VolumeKeyStore(shelf.store, VOLUME, digest_of(encode_body(VOLUME, b"")))


@pytest.fixture
def made(keys: VolumeKeyStore) -> Unlocked:
    return keys.create(FIRST, "first", "label", CHEAP)


def test_whole_keys_are_no_finding(shelf: Shelf, keys: VolumeKeyStore, made: Unlocked) -> None:
    keys.add(made.root, SECOND, "second", CHEAP)
    keys.rotate(made)
    assert check_keys(shelf) == []
    keys.replace_root(keys.unlock(FIRST), [(KeyFile.of(b"3" * 32), "third")], CHEAP)
    assert check_keys(shelf) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_key_entry_that_did_not_open_the_volume_is_checked(
    shelf: Shelf, keys: VolumeKeyStore, made: Unlocked, damage: str
) -> None:
    assert made.entry is not None
    change, problem = DAMAGES[damage]
    other = keys.add(made.root, SECOND, "second", CHEAP)
    change(shelf, other)
    (finding,) = check_keys(shelf)
    assert (finding.code, finding.touches, finding.is_open) == ("key-damaged", {"object": other.key}, True)
    assert problem in finding.detail
    assert finding.detail.endswith(f"; undamaged keys: key-file {made.entry.id}")


@pytest.mark.parametrize("damage", ["a changed bit", "another number", "a short salt"])
def test_a_keyring_that_nobody_uses_is_checked(shelf: Shelf, keys: VolumeKeyStore, made: Unlocked, damage: str) -> None:
    keys.rotate(made)
    (first, _) = shelf.list_entries(KeyringEntry)
    ring, body = shelf.load(KeyringEntry, first.id), bytearray(shelf.store.get(first.key))
    shelf.store.delete_many([first.key])
    if damage == "a changed bit":
        body[len(body) // 2] ^= 1
        shelf.store.put_if_absent(first.key, bytes(body))
    else:
        shelf.save(ring.changed(**({"sequence": 7} if damage == "another number" else {"salt": b"s"})))
    (finding,) = check_keys(shelf)
    assert (finding.code, finding.touches) == ("keyring-damaged", {"object": first.key})


def test_fsck_reports_a_damaged_key_and_which_ones_remain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key that opens the volume is another one."""
    monkeypatch.setenv("CAS3FS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CAS3FS_CACHE_DIR", str(tmp_path / "cache"))
    store = tmp_path / "volume"
    store.mkdir()
    url, (first, second) = store.as_uri(), (tmp_path / name for name in ("first", "second"))
    for file in (first, second):
        file.write_bytes(file.name.encode() * 16)
    opened_by = ("--key-file", str(first))
    assert run(["mkfs", "--encrypt", *opened_by, url]) == 0
    (remaining,) = (store / "keys").iterdir()
    assert run(["key", "add", *opened_by, "--new-key-file", str(second), url]) == 0
    (damaged,) = {*(store / "keys").iterdir()} - {remaining}
    capsys.readouterr()
    assert run(["fsck", *opened_by, "--json", url]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert run(["fsck", *opened_by, "--json", url]) == 4
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["code"], finding["touches"]) == ("key-damaged", {"object": f"keys/{damaged.name}"})
    assert f"undamaged keys: key-file {remaining.name}" in finding["detail"]
