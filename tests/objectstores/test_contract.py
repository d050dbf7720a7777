# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of object stores, for each of them."""

import secrets
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cas3fs.config import StoreSettings
from cas3fs.encryption.ciphers import AES_256_GCM, CHACHA20_POLY1305
from cas3fs.encryption.keyring import Keyring, ObjectKeys
from cas3fs.metrics import Metrics
from cas3fs.objectstores import ObjectStore, open_store
from cas3fs.objectstores.directory import DirectoryStore
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.objectstores.s3 import S3Store, make_client
from cas3fs.objectstores.wrappers.sealed import SealedStore
from cas3fs.testing.servers import REGION, S3Server
from tests.contracts.objectstore import (
    CreatesOnlyOnce,
    IgnoresConditions,
    KeepsMetadata,
    ObjectStoreContract,
    RefusesNesting,
)


class TestMemory(ObjectStoreContract, CreatesOnlyOnce, RefusesNesting, KeepsMetadata):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore("test", page_size=3)


class TestDirectory(ObjectStoreContract, CreatesOnlyOnce, RefusesNesting):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with closing(DirectoryStore(tmp_path, page_size=3)) as store:
            yield store


class TestWrappedDirectory(ObjectStoreContract, CreatesOnlyOnce, RefusesNesting):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with closing(open_store(StoreSettings(tmp_path.as_uri()), metrics=Metrics())) as store:
            yield store


class TestLimitedDirectory(ObjectStoreContract, CreatesOnlyOnce, RefusesNesting):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        limits = {"upload_bytes_per_s": 64 << 20, "download_bytes_per_s": 64 << 20}
        settings = StoreSettings(tmp_path.as_uri(), max_concurrency=2, **limits)
        with closing(open_store(settings, metrics=Metrics())) as store:
            yield store


class TestSealed(ObjectStoreContract, CreatesOnlyOnce, RefusesNesting):
    @pytest.fixture
    def store(self) -> ObjectStore:
        keys = ObjectKeys(Keyring.new(datetime.now(UTC)), b"u" * 16, AES_256_GCM)
        return SealedStore(MemoryStore("sealed", page_size=3), keys)


class TestSealedDirectory(ObjectStoreContract, CreatesOnlyOnce, RefusesNesting):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        keys = ObjectKeys(Keyring.new(datetime.now(UTC)), b"u" * 16, CHACHA20_POLY1305)
        return SealedStore(DirectoryStore(tmp_path, page_size=3), keys)


class S3Contract(ObjectStoreContract, KeepsMetadata):
    """On any server; each test has its own prefix in one bucket."""

    @pytest.fixture
    def store(self, bucket: "Bucket") -> ObjectStore:
        return bucket.new_store()


class TestS3OnMoto(S3Contract, CreatesOnlyOnce):
    @pytest.fixture(scope="class")
    @classmethod
    def bucket(cls, moto_s3: S3Server) -> Iterator["Bucket"]:
        yield from open_bucket(moto_s3)


class TestS3OnRclone(S3Contract, IgnoresConditions):
    @pytest.fixture(scope="class")
    @classmethod
    def bucket(cls, rclone_s3: S3Server) -> Iterator["Bucket"]:
        yield from open_bucket(rclone_s3)


class Bucket(NamedTuple):
    """Stores under prefixes of one bucket share a client, as making one takes long."""

    name: str
    client: Any

    def new_store(self) -> ObjectStore:
        return S3Store(self.name, f"{secrets.token_hex(6)}/some folder", page_size=4, client=self.client)


def open_bucket(server: S3Server) -> Iterator[Bucket]:
    name = f"test-{secrets.token_hex(6)}"
    server.make_bucket(name)
    settings = StoreSettings("s3://bucket", server.endpoint_url, server.access_key, server.secret_key, REGION)
    with closing(make_client(settings)) as client:
        yield Bucket(name, client)
