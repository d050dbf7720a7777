# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies outside the machine after a rich life of an encrypted volume: every byte of it is searched.

The same search on a plain volume finds everything, so that it can fail.
"""

import contextlib
import os
import random
import re
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import zstandard
from blake3 import blake3
from pymemcache.client.base import Client

from cas3fs.testing.servers import MemcachedProcess, S3Server, memcached, s3_client
from tests.caches.nginx import Nginx, nginx
from tests.mount.conftest import CliMachine, new_bucket

pytestmark = [pytest.mark.encryption("plain", "encrypted"), pytest.mark.lasts(300)]

BLOCK_BYTES = 16 * 1024
WINDOW_BYTES = 16
LABEL, SNAPSHOT, NOTE = "label-of-the-volume", "name-of-a-snapshot", "note-of-a-recovery-key"
NAMES = [
    "folder-of-plans",
    "random-file",
    "table-file",
    "tiny-file",
    "sparse-file",
    "rewritten-file",
    "brief-über-äpfel",
]
GONE = ["renamed-away", "deleted-file", "hard-link"]
TARGET = "/target/of/a/symbolic/link"
ATTRIBUTE, VALUE = "user.name-of-an-attribute", b"value-of-an-attribute"

Place = tuple[str, bytes]
"""Where bytes were found, and the bytes."""


class Secrets(NamedTuple):
    """What must not be seen."""

    words: dict[str, bytes]
    """Names and other text, by what it is."""
    contents: dict[str, bytes]
    """Content of files, by the name of the file."""

    def hashes(self) -> dict[str, bytes]:
        """Plain BLAKE3 of every block, and of every file."""
        found = {}
        for name, content in self.contents.items():
            found[f"hash of {name}"] = blake3(content).digest()
            for start in range(0, len(content), BLOCK_BYTES):
                found[f"hash of {name} at {start}"] = blake3(content[start : start + BLOCK_BYTES]).digest()
        return found

    def windows(self) -> dict[bytes, str]:
        """Every 16 bytes of content that occur nowhere by chance, by the name of a file that has them."""
        return {
            window: name
            for name, content in self.contents.items()
            for start in range(len(content) - WINDOW_BYTES + 1)
            if len(set(window := content[start : start + WINDOW_BYTES])) > 3
        }


def live(machine: CliMachine) -> Secrets:
    """Do much on the mounted volume; returns what nobody else may know."""
    dice = random.Random(5)
    folder = machine.dir / NAMES[0]
    contents = {
        NAMES[1]: dice.randbytes(100_000),
        NAMES[2]: "".join(f"row {number}: {number * number:>12} is its square\n" for number in range(1500)).encode(),
        NAMES[3]: b"a secret of few words",
        NAMES[4]: dice.randbytes(BLOCK_BYTES) + bytes(3 * BLOCK_BYTES) + dice.randbytes(5000),
        NAMES[5]: dice.randbytes(40_000),
        NAMES[6]: b"Die \xc3\x84pfel sind reif, und niemand darf es wissen.\n" * 30,
        GONE[0]: dice.randbytes(20_000),
        GONE[1]: dice.randbytes(20_000),
    }
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (machine.dir / "link").symlink_to(TARGET)
    (folder / GONE[2]).hardlink_to(folder / NAMES[3])
    os.setxattr(folder / NAMES[1], ATTRIBUTE, VALUE)
    machine.run("snapshot", "create", "--name", SNAPSHOT, machine.dir)
    (folder / GONE[0]).rename(folder / NAMES[5])
    (folder / GONE[1]).unlink()
    with open(folder / NAMES[1], "r+b") as changed:
        changed.seek(50_000)
        changed.write(b"written in the middle of it, later on")
    contents["what was written into it"] = b"written in the middle of it, later on"
    machine.run("flush", machine.dir)
    words = {f"name {name}": name.encode() for name in NAMES + GONE}
    words |= {"label": LABEL.encode(), "snapshot": SNAPSHOT.encode(), "target": TARGET.encode()}
    words |= {"attribute": ATTRIBUTE.removeprefix("user.").encode(), "value": VALUE}
    words |= {"host": f'"{socket.gethostname()}"'.encode(), "field of the user's name": b'"user"'}
    words["path"] = str(machine.root).encode()
    return Secrets(words, contents)


def read_all(machine: CliMachine) -> None:
    """Read every file, which fills the caches."""
    for path in machine.dir.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.read_bytes()


def files_below(folder: Path) -> Iterator[Place]:
    """Names, extended attributes and bytes of all files below a folder."""
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        yield name, os.fsencode(name)
        for attribute in os.listxattr(path):
            yield f"{attribute} of {name}", attribute.encode() + b"=" + os.getxattr(path, attribute)
        if path.is_file():
            yield name, path.read_bytes()


def objects_of(server: S3Server, bucket: str) -> Iterator[Place]:
    """What an S3 server tells whoever runs it: listings, names, user metadata and other headers, and bytes."""
    with contextlib.closing(s3_client(server)) as client:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            yield "a listing", repr(page).encode()
            for listed in page.get("Contents", ()):
                name = listed["Key"]
                yield f"the name {name}", name.encode()
                answer = client.get_object(Bucket=bucket, Key=name)
                yield name, answer.pop("Body").read()
                yield f"the headers of {name}", repr(answer).encode()
                yield f"the tags of {name}", repr(client.get_object_tagging(Bucket=bucket, Key=name)).encode()


def items_of(server: MemcachedProcess) -> Iterator[Place]:
    """Keys and values of all items."""
    with socket.create_connection(server.address) as connection, connection.makefile("rwb") as stream:
        stream.write(b"lru_crawler metadump all\r\n")
        stream.flush()
        lines = list(iter(stream.readline, b"END\r\n"))
    client = Client(server.address)
    try:
        for line in lines:
            key = line.split()[0].removeprefix(b"key=").replace(b"%3A", b":")
            yield f"the key {key!r}", key
            value = client.get(key)
            assert value is not None, key
            yield f"the value of {key!r}", value
    finally:
        client.close()


def unpacked(places: list[Place]) -> Iterator[Place]:
    """What is in frames of zstd anywhere in these bytes, as the pages of a snapshot are compressed."""
    for where, content in places:
        for found in re.finditer(re.escape(zstandard.FRAME_HEADER), content):
            with contextlib.suppress(zstandard.ZstdError):
                machine = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
                yield f"a frame in {where}", machine.decompress(content[found.start() :])


def words_in(secrets: Secrets, places: list[Place]) -> set[str]:
    """What is found of words and hashes, as they are and in hexadecimal digits."""
    searched = secrets.words | secrets.hashes()
    forms = [(what, form) for what, word in searched.items() for form in (word, word.hex().encode())]
    found = set()
    for _, content in places:
        lower = content.lower()
        found.update(what for what, form in forms if form in content or form in lower)
    return found


def contents_in(secrets: Secrets, places: list[Place]) -> set[str]:
    """The files of whose content at least 16 bytes are found."""
    windows = secrets.windows()
    return {
        windows[window]
        for _, content in places
        for start in range(len(content) - WINDOW_BYTES + 1)
        if (window := content[start : start + WINDOW_BYTES]) in windows
    }


class Lived(NamedTuple):
    """A volume with a past, unmounted, and the caches that it has filled."""

    machine: CliMachine
    secrets: Secrets
    store: Callable[[], Iterator[Place]]
    """Everything that whoever runs the store can see."""
    memcached: MemcachedProcess
    web: Nginx


@pytest.fixture(params=["directory", "s3"])
def place(
    request: pytest.FixtureRequest, need_fuse: None, frontend: str, workspace: Path
) -> Iterator[tuple[CliMachine, Callable[[], Iterator[Place]]]]:
    """A machine, and what the store of its volume shows to whoever runs it."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("moto_s3")
        bucket = new_bucket(server, workspace)
        machine = CliMachine(workspace, f"s3://{bucket}/volume", server.environment, frontend)
        yield machine, partial(objects_of, server, bucket)
    else:
        folder = workspace / "v"
        folder.mkdir()
        machine = CliMachine(workspace, folder.as_uri(), {}, frontend)
        yield machine, partial(files_below, folder)
    machine.clean_up()


@pytest.fixture
def lived(place: tuple[CliMachine, Callable[[], Iterator[Place]]], encryption: str, tmp_path: Path) -> Iterator[Lived]:
    machine, store = place
    with memcached() as server, nginx(tmp_path) as web:
        caches = [f"{server.spec}?timeout=5s&slow=5s", f"web+{web.url}/blocks?timeout=5s&slow=5s"]
        options = [word for cache in ("memory:8MiB", *caches) for word in ("--cache", cache)]
        fixed = ("--chunker", "fixed", "--block-size", "16KiB", "--compression", "none")
        machine.mkfs("--label", LABEL, *fixed)
        if encryption == "encrypted":
            machine.run("key", "add", "--recovery", "--note", NOTE, machine.url)
        machine.mount(*options)
        secrets = live(machine)
        read_all(machine)
        machine.umount()
        for _ in range(2):  # on a new machine, and once more with what it has
            machine.forget_everything()
            machine.mount(*options)
            read_all(machine)
            if encryption == "encrypted":
                machine.run("key", "rotate", machine.dir)
            machine.run("gc", "--grace", "0s", machine.dir)
            machine.umount()
        machine.run("fsck", machine.url)
        yield Lived(machine, secrets, store, server, web)


@pytest.mark.promise("the-store-learns-no-content")
def test_nothing_of_a_volume_is_seen_outside_the_machine(lived: Lived, encryption: str) -> None:
    machine, secrets, _, server, web = lived
    stored = list(lived.store())
    assert {"volume", "epochs", "packs", "pages", "snapshots"} <= {
        part for name, _ in stored for part in name.split("/")
    }
    store = stored + list(unpacked(stored))
    caches = {"memcached": list(items_of(server)), "nginx": list(files_below(web.root))}
    uuid = next(machine.state.glob("*-*-*/index.sqlite")).parent.name
    ids = {"uuid": uuid.encode(), "uuid's digits": uuid.replace("-", "").encode()}
    kept = {name for name in secrets.contents if name not in GONE}
    for places in caches.values():
        assert len(places) > 10
        told = words_in(Secrets(secrets.words | ids, secrets.contents), places)
        if encryption == "encrypted":
            assert told == set()
            assert contents_in(secrets, places) == set()
        else:
            assert {f"hash of {name} at 0" for name in NAMES[1:]} <= told
            assert told & set(ids)
            assert contents_in(secrets, places) >= kept
    if encryption == "encrypted":
        noted = Secrets(secrets.words | {"note": NOTE.encode()}, secrets.contents)
        assert words_in(noted, store) == set()
        assert contents_in(secrets, store) == set()
    else:
        assert words_in(secrets, store) >= (secrets.words.keys() - {"path"}) | {f"hash of {NAMES[1]} at 0"}
        assert contents_in(secrets, store) >= kept


def test_the_search_finds_16_bytes_anywhere_and_hashes_in_digits(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(1000)
    secrets = Secrets({"word": b"a-word"}, {"file": content})
    (tmp_path / "has a-word in its name").write_bytes(b"")
    assert words_in(secrets, list(files_below(tmp_path))) == {"word"}
    (tmp_path / "hash").write_bytes(blake3(content).hexdigest().upper().encode())
    assert words_in(secrets, list(files_below(tmp_path))) == {"word", "hash of file", "hash of file at 0"}
    assert contents_in(secrets, list(files_below(tmp_path))) == set()
    os.setxattr(tmp_path / "hash", "user.any", b"x" + content[3:18])
    assert contents_in(secrets, list(files_below(tmp_path))) == set()
    os.setxattr(tmp_path / "hash", "user.any", b"x" + content[3:19])
    assert contents_in(secrets, list(files_below(tmp_path))) == {"file"}
