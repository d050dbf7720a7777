# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixtures of cas3fs for pytest, available where both are installed (``docs/testing.rst``).

This module is cheap to import: each fixture imports what it needs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cas3fs.testing.fake_memcached import FakeMemcached
    from cas3fs.testing.fake_s3 import FakeS3
    from cas3fs.testing.faulty_store import FaultyStores
    from cas3fs.testing.volumes import TemporaryMount, TemporaryVolume

pytest.register_assert_rewrite("cas3fs.testing.contracts")

FAKE_BUCKET = "bucket"
"""The bucket of the fake S3."""


@pytest.fixture
def fake_s3() -> "FakeS3":
    """A fake of boto3's client, with an empty bucket named ``bucket`` and faults to switch on."""
    from cas3fs.testing.fake_s3 import FakeS3

    return FakeS3(FAKE_BUCKET)


@pytest.fixture
def fake_memcached() -> "FakeMemcached":
    """pymemcache's client of a fake server, with faults to switch on; `twin` makes other clients of that server."""
    from cas3fs.testing.fake_memcached import FakeMemcached

    return FakeMemcached(default_noreply=False)


@pytest.fixture
def faulty_stores() -> Iterator["FaultyStores"]:
    """Every store that cas3fs opens in this process has faults to switch on."""
    from cas3fs.testing.faulty_store import faulty_stores

    with faulty_stores() as stores:
        yield stores


@pytest.fixture
def cas3fs_mkfs_options() -> tuple[str, ...]:
    """Options of ``cas3fs mkfs`` for `cas3fs_volume`, to be overridden: ``("--encrypt",)`` for an encrypted volume."""
    return ()


@pytest.fixture
def cas3fs_volume(tmp_path_factory: pytest.TempPathFactory, cas3fs_mkfs_options: tuple[str, ...]) -> "TemporaryVolume":
    """A new, empty volume in a temporary folder, with its own state and cache folders."""
    from cas3fs.testing.volumes import TemporaryVolume

    return TemporaryVolume.make(tmp_path_factory.mktemp("cas3fs"), *cas3fs_mkfs_options)


@pytest.fixture
def cas3fs_mount_options() -> tuple[str, ...]:
    """Options of ``cas3fs mount`` for `cas3fs_mount`, to be overridden: ``("--fsync", "remote")``."""
    return ()


@pytest.fixture
def cas3fs_mount(cas3fs_volume: "TemporaryVolume", cas3fs_mount_options: tuple[str, ...]) -> Iterator["TemporaryMount"]:
    """The volume, mounted until the end of the test; the test is skipped where volumes cannot be mounted."""
    from cas3fs.testing.volumes import TemporaryMount, obstacle_to_mounting

    if obstacle := obstacle_to_mounting():
        pytest.skip(f"cannot mount: {obstacle}")
    mount = TemporaryMount(cas3fs_volume, Path(cas3fs_volume.folder) / "mnt", cas3fs_mount_options)
    mount.up()
    try:
        yield mount
    finally:
        mount.down()
