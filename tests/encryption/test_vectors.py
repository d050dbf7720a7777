# SPDX-License-Identifier: GPL-3.0-or-later
"""Known answers: the formats of encryption stay what they are, so that volumes and other programs can read them."""

from datetime import UTC, datetime

import pytest
from blake3 import blake3

from cas3fs.encryption.ciphers import AES_256_GCM, CHACHA20_POLY1305, derive
from cas3fs.encryption.disk_cache import DiskCacheSeal
from cas3fs.encryption.key_entries import SealedRoot, open_root
from cas3fs.encryption.keyring import Generation, Keyring, ObjectKeys, SealedKeyring, open_keyring, root_fingerprint
from cas3fs.encryption.sealing import ObjectSeal, SealHeader
from cas3fs.encryption.secret import Argon2Parameters, KeyFile, KmsDataKey, Passphrase, RecoveryKey, Secret
from cas3fs.encryption.shared_caches import SharedCacheSeal


def numbered(start: int, end: int) -> bytes:
    return bytes(range(start, end))


UUID, SALT, ROOT = numbered(0, 16), numbered(0, 32), numbered(32, 64)
KEYRING = Keyring((Generation(1, numbered(64, 96), datetime(2026, 1, 1, tzinfo=UTC)),), numbered(96, 128), "label")
KEYS = ObjectKeys(KEYRING, UUID, AES_256_GCM)
SEALED_KEYRING = (
    "69d4bd0ca6098bdb85c3faa178f8c94fa83cfabfc2c9ef461e5b51606ce85aa515f22c9776d6477b1a75be5c9dfdddb5276d"
    "9c5d5e6ee91f83be9959112db24372610cb11d41386523c3ca3527e4b1b0f3e2675c4f9fdd1dff3ee3e3b5e56ff82413eb54"
    "f6127f508baef91f89b064cdcc73f28badfe56ad92ed902f4d6a52d87e5e154a710897c60b66a6c6572667afdcf75314d08b"
    "a854e40aa91dff05d92447f44fa01430fc24770d684d1b9b9f07a3ed8e9898cc59e182ae6b4cf56093f51f4231e22f9bf822"
    "c1ad530d7afef415f8d1f05ef7029fc6c3c11c37d792bef1f7ea843cea94fc67ca65c383f2ffbf7734dab9bf15538cdb65da"
    "3ec1b4db386042b7cce0b7bc92c482ce01d6ba615663"
)
OBJECT_DIGESTS = {
    AES_256_GCM: "9d7099993f8291800022f91a27225ddb096459683ffe00f959a77f5745cf769f",
    CHACHA20_POLY1305: "ef27ec49acf365c5ff5ded31414aeae83ddaf3208462d4e8c2e322d6a8031803",
}
NAME_IN_CACHES = "e3e49b11390dcd036f952b929d4edea58024ded3a5c648bee6bb3a946acacfcb"
SEALED_BLOCKS = {
    AES_256_GCM: (
        "01404142434445464748494a4bc020a2e98303badd8bd06535f4adf292432b45090d340e687e07956766f250d418f9a9a075313c3ecb6c"
    ),
    CHACHA20_POLY1305: (
        "01404142434445464748494a4bf7e82c6aab34401f1e9c0f324c89848ee20e205e74c0ed61a75c9776463b35de47628c2cda193410d14b"
    ),
}
SEALED_PIECES = {
    AES_256_GCM: "ca82d92f3155d3f623bee6bb3ad3d389459f5c2bd9df3638642efdd60a1a44e715b51e7765f8",
    CHACHA20_POLY1305: "fb178c13f509d7dfc3af689db9a2939a347eed4877f13ea3bb45fd1d26d9f1033bbb7f78d884",
}
ENTRIES: list[tuple[Secret, SealedRoot]] = [
    (
        Passphrase.of("correct horse"),
        SealedRoot(
            "passphrase",
            SALT,
            Argon2Parameters(65536, 1),
            bytes.fromhex("10bea838abca8a2812f5a3ce0936d80df1fc5cfa6e3728f444cd196a9ec46213"),
            bytes.fromhex(
                "88fb66bdf367450cd7d8f8bf9018434168149b2dd9507f8e0c878ddd96d7ba93d22b65d135e9d75282436a1a5a64f31d"
            ),
        ),
    ),
    (
        KeyFile.of(SALT),
        SealedRoot(
            "key-file",
            SALT,
            None,
            bytes.fromhex("c19114dec2d3ce0dc0a6d3e2936761fae8847c0000407ea55f5d01d6dcffe55d"),
            bytes.fromhex(
                "8f8488db14a89d62b2cf8714087218eceb7722d3b853acbf0a4e8c579203fd50454ed1debdfd71f2306c98e8d118a8d4"
            ),
        ),
    ),
    (
        RecoveryKey(SALT),
        SealedRoot(
            "recovery",
            SALT,
            None,
            bytes.fromhex("cbc79fbc30699c383cf7a8ba83cb5ceb8afe93565b2da2de229409f1d0962df6"),
            bytes.fromhex(
                "40197f26dd47e99f7c60a0d76a71879841f513a8e5131a03163600e48cec21af0fdadbb83040ec2ae294d44ce3b96e1b"
            ),
        ),
    ),
    (
        KmsDataKey(SALT),
        SealedRoot(
            "kms",
            SALT,
            None,
            bytes.fromhex("741ce67e3b3dd6eee003b4a40ace98a79bb9785885573cb0505500baf83aec9b"),
            bytes.fromhex(
                "60e347d7237843c9992a6075cab77e94556bfd8cbf58c629fe2159f2611c92a6c9a5fcb0cc3fe795bd2901dedcab9912"
            ),
        ),
    ),
]


def test_derivation() -> None:
    assert derive("cas3fs v2 object", b"a", b"bc").hex() == (
        "88379634653b3ca4b1d2b1971c517ea2ea1b32676ec19d9f11ad4600dcc53eb7"
    )


@pytest.mark.parametrize("cipher", OBJECT_DIGESTS)
def test_an_object(cipher: str) -> None:
    header = SealHeader(1, SALT)
    seal = ObjectSeal(ObjectKeys(KEYRING, UUID, cipher).key_of("pages/00000001-0000000001", header), header)
    stored = seal.seal(bytes(65536) + b"tail")
    assert stored[:48] == b"CAS3SEAL\0\1\0\1\0\0\0\0" + SALT
    assert blake3(stored).hexdigest() == OBJECT_DIGESTS[cipher]


def test_names_of_content() -> None:
    assert KEYS.hash_content(b"content").hex() == "2556bc5178e2d0c0153af2dcdf29eee0829b04e966d27368132e345b31c1d39e"
    assert KEYS.name_content(b"content") == "0001bc5178e2d0c0153af2dcdf29eee0829b04e966d27368132e345b31c1d39e"


def test_the_key_of_shared_caches() -> None:
    assert KEYS.cache_key().hex() == "7bfc2abf9239798d4c013883ffcf03c46a2120e7516a04646014e59e1519ad98"


def test_the_name_of_a_block_in_shared_caches() -> None:
    assert SharedCacheSeal(SALT, AES_256_GCM).name_of(ROOT).hex() == NAME_IN_CACHES


@pytest.mark.parametrize("cipher", SEALED_BLOCKS)
def test_a_block_in_shared_caches(cipher: str) -> None:
    seal, name, plain = SharedCacheSeal(SALT, cipher), bytes.fromhex(NAME_IN_CACHES), b"plain bytes of a block"
    value = bytes.fromhex(SEALED_BLOCKS[cipher])
    assert seal.seal_with(numbered(64, 76), name, plain) == value
    assert seal.open(name, value) == plain


def test_the_key_of_the_disk_cache() -> None:
    assert KEYS.disk_cache_key().hex() == "2c1bab742ce3005257653ce8cdbc7ee9d55dc2a11762da64fd23e327744b27a6"


@pytest.mark.parametrize("cipher", SEALED_PIECES)
def test_a_piece_of_a_block_in_the_disk_cache(cipher: str) -> None:
    seal = DiskCacheSeal(SALT, cipher)
    file = seal.of_file(ROOT, b"c3cache\2" + (22).to_bytes(8, "little") + UUID)
    assert seal.folder == "sealed-25a1454b9bf27a5b"
    assert file.seal(3, b"plain bytes of a piece").hex() == SEALED_PIECES[cipher]
    assert file.open(3, bytes.fromhex(SEALED_PIECES[cipher])) == b"plain bytes of a piece"


def test_the_fingerprint_of_a_root() -> None:
    assert root_fingerprint(ROOT, UUID) == "0f8d7fbe123f100ef51cc2d5c99cff9b"


def test_a_keyring() -> None:
    sealed = SealedKeyring(
        SALT,
        bytes.fromhex("9787c98da5122519955e5706ab1e9705858a7c3346a3c4e479650ae65f30366b"),
        bytes.fromhex(SEALED_KEYRING),
    )
    assert open_keyring(sealed, ROOT, AES_256_GCM, b"bound") == KEYRING


@pytest.mark.parametrize(("secret", "entry"), ENTRIES, ids=[entry.method for _, entry in ENTRIES])
def test_a_key_entry(secret: Secret, entry: SealedRoot) -> None:
    assert open_root(entry, secret, AES_256_GCM, b"bound") == ROOT


def test_a_recovery_key() -> None:
    printed = "AAAQ-EAYE-AUDA-OCAJ-BIFQ-YDIO-B4IB-CEQT-CQKR-MFYY-DENB-WHA5-DYPT-N6L4"
    assert RecoveryKey(SALT).printable() == printed
    read = RecoveryKey.parse(printed)
    assert read is not None
    assert read.reveal() == SALT
