# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes that an earlier cas3fs made, each with the state directory of its machine, can be read and written.

``earlier/version-0.1.0.tar.xz`` contains two volumes in folders, made in the first formats by the commands of that
version: one was unmounted; the mount of the other was killed after two fsyncs of files that were not stored yet.

``earlier/encrypted-0.1.0.tar.xz`` contains the store of an encrypted volume, which a key file and a passphrase open.
Its keys were rotated between two snapshots.
"""

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import CliMachine

EARLIER = Path(__file__).parent / "earlier" / "version-0.1.0.tar.xz"
ENCRYPTED = Path(__file__).parent / "earlier" / "encrypted-0.1.0.tar.xz"
NUMBERS = b"".join(b"%07d\n" % number for number in range(25_000))
STAGED = {"staged": b"staged \n" * 40_000, "small": b"small" * 10}


@pytest.fixture(params=["released", "crashed"])
def earlier(request: pytest.FixtureRequest, need_fuse: None, workspace: Path) -> Iterator[CliMachine]:
    """The machine on which the volume was made."""
    with tarfile.open(EARLIER) as archive:
        archive.extractall(workspace, filter="data")
    folder = workspace / request.param
    (folder / "state").rename(folder / "s")
    (folder / "store").chmod(0o700)  # as a mount requires now
    made = CliMachine(folder, (folder / "store").as_uri(), {})
    yield made
    made.clean_up()


def check_tree(machine: CliMachine, name: str = "") -> None:
    """Check the tree of the earlier version: bytes, links, attributes, times."""
    tree, name = machine.dir, name or machine.root.name
    assert (tree / "d" / "a").read_bytes() == NUMBERS
    assert (tree / "d" / "b").read_bytes() == b"hello" * 1000 + bytes(1000)
    assert (tree / "d" / "b").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert os.getxattr(tree / "d" / "b", "user.k") == b"v"
    assert (tree / "sym").readlink() == Path("d/a")
    assert (tree / "sparse").read_bytes() == bytes(1 << 20) + b"end"
    assert not (tree / "hard").exists()
    if name == "released":
        assert (tree / "later").read_bytes() == b"later\n"
    else:
        assert {one: (tree / one).read_bytes() for one in STAGED} == STAGED


@pytest.mark.promise("volumes-of-earlier-versions-work")
def test_the_original_machine_continues_an_earlier_volume(earlier: CliMachine) -> None:
    """All files are there, including staged ones; new files can be added, and a machine without state sees all."""
    earlier.mount()
    check_tree(earlier)
    (earlier.dir / "new").write_bytes(NUMBERS + b"new")
    earlier.umount()
    assert earlier.run("fsck", earlier.url, "--verify-data").returncode == 0
    earlier.run("gc", earlier.url, "--grace", "0s")
    earlier.forget_everything()
    earlier.mount()
    check_tree(earlier)
    assert (earlier.dir / "new").read_bytes() == NUMBERS + b"new"
    earlier.umount()


@pytest.mark.promise("volumes-of-earlier-versions-work")
def test_a_snapshot_of_an_earlier_volume_can_be_restored(earlier: CliMachine) -> None:
    """The named snapshot of the earlier version can be mounted, and the volume can be restored to it."""
    (first,) = (one["id"] for one in earlier.report("snapshot", "list", earlier.url) if one["name"] == "first")
    earlier.run("mount", earlier.url, earlier.dir, "--snapshot", first)
    assert (earlier.dir / "hard").read_bytes() == NUMBERS
    earlier.umount()
    earlier.mount()
    earlier.umount()
    earlier.run("snapshot", "restore", earlier.url, first)
    earlier.mount()
    assert (earlier.dir / "hard").read_bytes() == NUMBERS
    earlier.umount()


@pytest.mark.promise("volumes-of-earlier-versions-work")
def test_another_machine_takes_over_an_earlier_volume(earlier: CliMachine) -> None:
    """A machine without the earlier state has what was published."""
    shutil.rmtree(earlier.state)
    if earlier.root.name == "crashed":
        assert "has not released it" in earlier.fail("mount", earlier.url, earlier.dir)
    earlier.mount("--take-over")
    assert (earlier.dir / "d" / "a").read_bytes() == NUMBERS
    (earlier.dir / "new").write_bytes(b"new")
    earlier.umount()
    assert earlier.run("fsck", earlier.url, "--verify-data").returncode == 0


@pytest.mark.promise("volumes-of-earlier-versions-work")
@pytest.mark.parametrize("secret", ["key", "passphrase"])
def test_an_encrypted_volume_of_an_earlier_version_can_be_used(need_fuse: None, workspace: Path, secret: str) -> None:
    """Both generations of its keys open, by either secret; it can be written, and its first snapshot shown."""
    with tarfile.open(ENCRYPTED) as archive:
        archive.extractall(workspace, filter="data")
    (workspace / "store").chmod(0o700)
    (workspace / "key").write_bytes(bytes(range(32)))
    secrets = {"key": {"CAS3FS_KEY_FILE": str(workspace / "key")}, "passphrase": {"CAS3FS_PASSPHRASE": "correct horse"}}
    machine = CliMachine(workspace, (workspace / "store").as_uri(), secrets[secret])
    try:
        (first,) = (one["id"] for one in machine.report("snapshot", "list", machine.url) if one["name"] == "first")
        machine.run("mount", machine.url, machine.dir, "--snapshot", first)
        assert (machine.dir / "hard").read_bytes() == NUMBERS
        machine.umount()
        machine.mount()
        check_tree(machine, "released")
        (machine.dir / "new").write_bytes(b"new")
        machine.umount()
        assert machine.report("stats", machine.url)["label"] == "earlier"
        assert machine.run("fsck", machine.url, "--verify-data").returncode == 0
    finally:
        machine.clean_up()
