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
    from cas3fs.testing.lying_store import LyingStores
    from cas3fs.testing.volumes import Mount, Volume

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
def lying_stores() -> Iterator["LyingStores"]:
    """Every store that cas3fs opens within this process fails and lies as the faults that are switched on say."""
    from cas3fs.testing.lying_store import lying_stores

    with lying_stores() as stores:
        yield stores


@pytest.fixture
def cas3fs_volume(tmp_path_factory: pytest.TempPathFactory) -> "Volume":
    """A new, empty volume in a temporary folder, with state and cache folders of its own."""
    from cas3fs.testing.volumes import Volume

    return Volume.make(tmp_path_factory.mktemp("cas3fs"))


@pytest.fixture
def cas3fs_mount(cas3fs_volume: "Volume") -> Iterator["Mount"]:
    """The volume mounted; skipped where nobody can mount. At the end it is unmounted, which stores everything."""
    from cas3fs.testing.volumes import Mount, obstacle_to_mounting

    if obstacle := obstacle_to_mounting():
        pytest.skip(f"cannot mount: {obstacle}")
    mount = Mount(cas3fs_volume, Path(cas3fs_volume.folder) / "mnt")
    mount.up()
    try:
        yield mount
    finally:
        mount.down()
