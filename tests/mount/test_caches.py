# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of caches on the command line, and blocks that machines share through them."""

import os
import shutil

import pytest

from cas3fs.testing.servers import memcached
from tests.mount.conftest import CliMachine


@pytest.mark.encryption("plain", "encrypted")
def test_machines_share_blocks_through_memcached(machine: CliMachine) -> None:
    content = os.urandom(3_000_000)
    machine.mkfs()
    with memcached() as server:
        options = ("--cache", "memory:8MiB", "--cache", "disk:64MiB", "--cache", f"{server.spec}?timeout=2s&slow=2s")
        machine.mount(*options)
        (machine.dir / "file").write_bytes(content)
        machine.umount()
        machine.mount("--cache", "memory:8MiB", *options[4:])
        assert (machine.dir / "file").read_bytes() == content
        machine.umount()
        machine.forget_everything()
        machine.mount(*options)
        assert (machine.dir / "file").read_bytes() == content
        stats = machine.report("stats", machine.dir)["process"]
        assert stats.get("reader.gets", 0) == 0
        assert stats["cache.memcached.hits"] > 0
        assert "memcached" in machine.run("stats", machine.dir).stdout
        server.kill()
        assert (machine.dir / "file").read_bytes() == content
        machine.umount()
        shutil.rmtree(machine.cache)
        machine.mount(*options)  # a missing server does not prevent a mount
        assert (machine.dir / "file").read_bytes() == content
        machine.umount()


def cached_bytes(machine: CliMachine) -> bytes:
    return b"".join(path.read_bytes() for path in machine.cache.rglob("*") if path.is_file())


@pytest.mark.encryption("encrypted")
def test_a_sealed_disk_cache_shows_no_content_and_is_used_again(machine: CliMachine) -> None:
    content = os.urandom(3_000_000)
    machine.mkfs()
    for options, is_sealed in [
        (("--cache", "disk:64MiB"), False),
        (("--cache", "disk:64MiB", "--encrypt-local"), True),
    ]:
        shutil.rmtree(machine.cache, ignore_errors=True)
        machine.mount(*options)
        (machine.dir / "file").write_bytes(content)
        machine.umount()
        machine.mount(*options)
        assert (machine.dir / "file").read_bytes() == content
        machine.umount()
        machine.mount(*options)
        assert (machine.dir / "file").read_bytes() == content
        stats = machine.report("stats", machine.dir)["process"]
        assert stats.get("reader.gets", 0) == 0
        assert stats["cache.disk.hits"] > 0
        assert stats["cache.disk.rotten"] == 0
        machine.umount()
        assert (content[1_000_000:1_000_016] in cached_bytes(machine)) is not is_sealed
        assert len(cached_bytes(machine)) > len(content)


@pytest.mark.parametrize("is_rotated", [False, True])
@pytest.mark.encryption("encrypted")
def test_fsck_takes_lost_blocks_from_a_sealed_disk_cache(machine: CliMachine, is_rotated: bool) -> None:
    content = os.urandom(3_000_000)
    machine.mkfs()
    options = ("--cache", "disk:64MiB", "--encrypt-local")
    machine.mount(*options)
    (machine.dir / "file").write_bytes(content)
    machine.umount()
    machine.mount(*options)
    assert (machine.dir / "file").read_bytes() == content  # this fills the cache
    machine.umount()
    if is_rotated:
        machine.run("key", "rotate", machine.url)
    shutil.rmtree(machine.root / "v" / "packs")
    machine.run("fsck", "--repair", machine.url, status=1)
    shutil.rmtree(machine.cache)
    machine.mount()
    assert (machine.dir / "file").read_bytes() == content
    machine.umount()


@pytest.mark.encryption("plain")
def test_the_option_to_seal_the_disk_cache_needs_an_encrypted_volume(machine: CliMachine) -> None:
    machine.mkfs()
    told = machine.fail("mount", machine.url, machine.dir, "--encrypt-local", status=2)
    assert "is not encrypted" in told
    assert "--encrypt-local" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cache", "tape:1TiB"), "no cache 'tape'"),
        (("--cache", "disk:1GiB", "--cache", "memory:1MiB"), "must come first"),
        (("--cache", "disk:1GiB", "--cache-size", "1GiB"), "exclude each other"),
    ],
)
def test_an_invalid_list_of_caches_is_refused_in_one_line(
    machine: CliMachine, options: tuple[str, ...], words: str
) -> None:
    machine.mkfs()
    assert words in machine.fail("mount", machine.url, machine.dir, *options, status=2)
