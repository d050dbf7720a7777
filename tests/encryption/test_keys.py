# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets, key entries and keyrings: the right secret opens them, and nothing else does."""

import pickle
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas3fs.encryption import secret
from cas3fs.encryption.ciphers import AES_256_GCM, CHACHA20_POLY1305, CIPHERS, SealBroken, fastest_cipher
from cas3fs.encryption.key_entries import SealedRoot, open_root, seal_root
from cas3fs.encryption.keyring import (
    Keyring,
    ObjectKeys,
    new_root,
    open_keyring,
    root_fingerprint,
    seal_keyring,
)
from cas3fs.encryption.sealing import SealHeader
from cas3fs.encryption.secret import Argon2Parameters, KeyFile, KmsDataKey, Passphrase, RecoveryKey, Secret
from cas3fs.errors import GenerationUnknown, KeyringDamaged, KeysError, UsageError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHEAPEST = Argon2Parameters(secret.LEAST_MEMORY_KIB, 1)
SECRETS: list[Secret] = [
    Passphrase.of("correct horse"),
    KeyFile.of(bytes(range(32))),
    RecoveryKey.random(),
    KmsDataKey(bytes(32)),
]


def sealed(one: Secret, root: bytes, bound: bytes = b"volume") -> SealedRoot:
    return seal_root(root, one, AES_256_GCM, bound, CHEAPEST)


@pytest.mark.parametrize("one", SECRETS, ids=lambda one: type(one).__name__)
def test_a_secret_opens_its_entry_and_no_other_does(one: Secret) -> None:
    root = new_root()
    entry = sealed(one, root)
    assert open_root(entry, one, AES_256_GCM, b"volume") == root
    assert open_root(entry, type(one)(one.reveal() + b"!"), AES_256_GCM, b"volume") is None
    assert open_root(entry, one, AES_256_GCM, b"another volume") is None


@pytest.mark.parametrize("field", ["salt", "commitment", "sealed"])
def test_a_changed_entry_opens_with_nothing(field: str) -> None:
    one, root = SECRETS[1], new_root()
    entry = sealed(one, root)
    changed = bytes([getattr(entry, field)[0] ^ 1]) + getattr(entry, field)[1:]
    assert open_root(attrs.evolve(entry, **{field: changed}), one, AES_256_GCM, b"volume") is None


@pytest.mark.promise("a-wrong-passphrase-and-a-damaged-key-look-alike")
@pytest.mark.parametrize(
    "parameters",
    [
        None,
        Argon2Parameters(2**31, 1),
        Argon2Parameters(2**20, 2**31),
        Argon2Parameters(2**20, 10),
        Argon2Parameters(secret.LEAST_MEMORY_KIB, 11),
        Argon2Parameters(secret.LEAST_MEMORY_KIB, 1, 2**31),
        Argon2Parameters(8, 1),
        Argon2Parameters(0, 0, 0),
    ],
    ids=str,
)
def test_hostile_costs_are_not_paid(parameters: Argon2Parameters | None, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = attrs.evolve(sealed(SECRETS[0], new_root()), parameters=parameters)
    paid: list[Argon2Parameters] = []
    real = secret.argon2id
    monkeypatch.setattr(
        "cas3fs.encryption.key_entries.argon2id",
        lambda passphrase, salt, wanted: paid.append(wanted) or real(passphrase, salt, CHEAPEST),
    )
    assert open_root(entry, SECRETS[0], AES_256_GCM, b"volume") is None
    assert paid == [secret.USUAL_PARAMETERS]  # as long as a wrong passphrase takes, and no longer


def test_a_secret_is_never_shown() -> None:
    one = Passphrase.of("correct horse")
    assert "horse" not in repr(one) + str(one) + f"{one}" + repr([one])
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(one)


def test_a_passphrase_does_not_depend_on_how_it_is_typed() -> None:
    composed, decomposed = "caf\u00e9\n", "cafe\u0301"
    assert Passphrase.of(composed).reveal() == Passphrase.of(decomposed).reveal()
    with pytest.raises(UsageError, match="empty"):
        Passphrase.of("\n")


def test_a_key_file_is_long_enough() -> None:
    with pytest.raises(UsageError, match="16 bytes"):
        KeyFile.of(b"short")
    with pytest.raises(UsageError, match="1MiB"):
        KeyFile.of(bytes((1 << 20) + 1))


@given(st.data())
def test_a_recovery_key_is_read_as_it_was_printed(data: st.DataObject) -> None:
    key = RecoveryKey.random()
    text = key.printable()
    typed = data.draw(
        st.sampled_from([text, text.lower(), text.replace("-", " "), text.replace("-", ""), f" {text}\n"])
    )
    read = RecoveryKey.parse(typed)
    assert read is not None
    assert read.reveal() == key.reveal()
    place = data.draw(st.integers(0, len(text) - 1).filter(lambda at: text[at] != "-"))
    wrong = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567").filter(lambda one: one != text[place]))
    assert RecoveryKey.parse(text[:place] + wrong + text[place + 1 :]) is None


def test_what_is_no_recovery_key_is_a_passphrase() -> None:
    assert RecoveryKey.parse("correct horse battery staple") is None
    assert RecoveryKey.parse("1" * 56) is None


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_keyring_opens_with_its_root_and_its_volume(cipher: str) -> None:
    keyring, root = Keyring.new(NOW, "Bücher").rotated(NOW), new_root()
    entry = seal_keyring(keyring, root, cipher, b"volume")
    assert open_keyring(entry, root, cipher, b"volume") == keyring
    with pytest.raises(KeyringDamaged, match="another root"):
        open_keyring(entry, new_root(), cipher, b"volume")
    with pytest.raises(KeyringDamaged, match="was changed"):
        open_keyring(entry, root, cipher, b"volume with another chunker")


@given(st.data())
def test_a_changed_keyring_is_refused(data: st.DataObject) -> None:
    root = new_root()
    entry = seal_keyring(Keyring.new(NOW), root, AES_256_GCM, b"volume")
    field = data.draw(st.sampled_from(["salt", "commitment", "sealed"]))
    content = bytearray(getattr(entry, field))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(KeyringDamaged):
        open_keyring(attrs.evolve(entry, **{field: bytes(content)}), root, AES_256_GCM, b"volume")


def test_rotation_keeps_names_and_old_generations() -> None:
    first = Keyring.new(NOW)
    second = first.rotated(NOW)
    assert second.names_key == first.names_key
    assert [one.number for one in second.generations] == [1, 2]
    assert second.generations[0] == first.current
    assert second.without([1, 2]).generations == (second.current,)
    last = attrs.evolve(first, generations=(attrs.evolve(first.current, number=2**16 - 1),))
    with pytest.raises(GenerationUnknown):
        last.rotated(NOW)


def test_a_fingerprint_names_one_root_of_one_volume() -> None:
    root = new_root()
    assert root_fingerprint(root, b"a") == root_fingerprint(root, b"a")
    assert len({root_fingerprint(root, b"a"), root_fingerprint(root, b"b"), root_fingerprint(new_root(), b"a")}) == 3


def test_the_cipher_is_what_the_processor_has_instructions_for(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("flags\t\t: fpu vme aes avx\n")
    assert fastest_cipher(info) == AES_256_GCM
    info.write_text("flags\t\t: fpu vme vaes_not avx\n")
    assert fastest_cipher(info) == CHACHA20_POLY1305
    assert fastest_cipher(tmp_path / "missing") == AES_256_GCM


@pytest.mark.parametrize(("free", "at_most"), [(64 << 20, 256 << 10), (300 << 10, 128 << 10), (0, 64 << 10)])
def test_costs_fit_in_the_free_memory(tmp_path: Path, free: int, at_most: int) -> None:
    info = tmp_path / "meminfo"
    info.write_text(f"MemTotal: 1 kB\nMemAvailable: {free} kB\n")
    found = secret.calibrated_parameters(info)
    assert found.is_acceptable
    assert found.memory_kib <= at_most


def test_an_object_keeps_its_key_when_its_generation_is_dropped() -> None:
    first, header, other = Keyring.new(NOW), SealHeader.random(1), SealHeader.random(1)
    before = ObjectKeys(first, b"uuid", AES_256_GCM)
    records = {"epochs/00000001": before.key_bytes_of("epochs/00000001", header)}
    dropped = first.rotated(NOW).without([1, 2], records)
    root = new_root()
    read = open_keyring(seal_keyring(dropped, root, AES_256_GCM, b""), root, AES_256_GCM, b"")
    after = ObjectKeys(read, b"uuid", AES_256_GCM)
    assert ([one.number for one in read.generations], read.records) == ([2], records)
    sealed = before.key_of("epochs/00000001", header).seal(bytes(12), b"claim")
    assert after.key_of("epochs/00000001", header).open(bytes(12), sealed) == b"claim"
    with pytest.raises(SealBroken):
        after.key_of("epochs/00000001", other).open(
            bytes(12), before.key_of("epochs/00000001", other).seal(bytes(12), b"another")
        )
    with pytest.raises(GenerationUnknown):
        after.key_of("epochs/00000002", header)


def test_a_derivation_for_which_there_is_no_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cas3fs.encryption.secret._available_kib", lambda _: CHEAPEST.memory_kib - 1)
    with pytest.raises(KeysError, match="takes 64 MiB of memory, which this machine has not"):
        secret.argon2id(Passphrase.of("correct horse"), bytes(32), CHEAPEST)
    monkeypatch.setattr("cas3fs.encryption.secret._available_kib", lambda _: 0)  # not known
    assert secret.argon2id(Passphrase.of("correct horse"), bytes(32), CHEAPEST)
