# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixtures of cas3fs for pytest, there for whoever has both installed; see ``docs/testing.rst``.

Importing this costs next to nothing: everything is imported by the fixture that needs it.
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
"""The bucket that the fake S3 begins with."""


@pytest.fixture
def fake_s3() -> "FakeS3":
    """A client as boto3's, without a network, with an empty bucket named ``bucket`` and faults to switch on."""
    from cas3fs.testing.fake_s3 import FakeS3

    return FakeS3(FAKE_BUCKET)


@pytest.fixture
def fake_memcached() -> "FakeMemcached":
    """pymemcache's client, without a network, with faults to switch on; `twin` makes others of the same server."""
    from cas3fs.testing.fake_memcached import FakeMemcached

    return FakeMemcached(default_noreply=False)


@pytest.fixture
def faulty_stores() -> Iterator["FaultyStores"]:
    """Every store that cas3fs opens within this process fails and lies as the faults that are switched on say."""
    from cas3fs.testing.faulty_store import faulty_stores

    with faulty_stores() as stores:
        yield stores


@pytest.fixture
def cas3fs_volume(tmp_path_factory: pytest.TempPathFactory) -> "TemporaryVolume":
    """A new, empty volume in a temporary folder, with state and cache folders of its own."""
    from cas3fs.testing.volumes import TemporaryVolume

    return TemporaryVolume.make(tmp_path_factory.mktemp("cas3fs"))


@pytest.fixture
def cas3fs_mount(cas3fs_volume: "TemporaryVolume") -> Iterator["TemporaryMount"]:
    """The volume mounted; skipped where nobody can mount. At the end it is unmounted, which stores everything."""
    from cas3fs.testing.volumes import TemporaryMount, obstacle_to_mounting

    if obstacle := obstacle_to_mounting():
        pytest.skip(f"cannot mount: {obstacle}")
    mount = TemporaryMount(cas3fs_volume, Path(cas3fs_volume.folder) / "mnt")
    mount.up()
    try:
        yield mount
    finally:
        mount.down()
