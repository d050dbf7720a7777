# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/format.rst is enough to read a volume: the reader below was written from it, and imports nothing of cas3fs."""

import itertools
import json
import os
import random
import sqlite3
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from cas3fs.testing.volumes import TemporaryMount, TemporaryVolume

PASSPHRASE = "caf\u00e9 \u2615"


@pytest.fixture
def filled(cas3fs_mount: TemporaryMount) -> Path:
    """The store of a volume with many kinds of files, and two snapshots."""
    noise = random.Random(1).randbytes
    (cas3fs_mount / "sub").mkdir()
    (cas3fs_mount / "sub" / "noise").write_bytes(noise(3_000_000))
    (cas3fs_mount / "text").write_bytes(b"the same line\n" * 100_000)
    (cas3fs_mount / "empty").touch()
    for number in range(300):
        (cas3fs_mount / f"small-{number}").write_bytes(noise(number))
    with open(cas3fs_mount / "sparse", "wb") as file:
        file.truncate(50_000_000)
        file.seek(20_000_000)
        file.write(noise(1000))
    (cas3fs_mount / "link").symlink_to("sub/noise")
    os.setxattr(cas3fs_mount / "text", "user.colour", b"blue\0")
    cas3fs_mount.flush()
    with open(cas3fs_mount / "sub" / "noise", "r+b") as file:
        file.seek(1_500_000)
        file.write(b"in the middle")
    os.utime(cas3fs_mount / "text", ns=(1, 1_234_567_890_123_456_789))
    cas3fs_mount.flush()
    return cas3fs_mount.volume.folder / "store"


def test_a_reader_written_from_the_page_reads_a_volume(
    filled: Path, cas3fs_mount: TemporaryMount, tmp_path: Path
) -> None:
    reader = Reader(filled, tmp_path / "index.sqlite")
    files = reader.files()
    expected = {path.relative_to(cas3fs_mount.path): path for path in cas3fs_mount.path.rglob("*")}
    assert set(files) == {str(path) for path in expected}
    for name, path in expected.items():
        inode, status = files[str(name)], path.lstat()
        row = reader.inode(inode)
        facts = (row["mode"], row["uid"], row["gid"], row["nlink"], row["size"], row["mtime_ns"])
        if not path.is_dir():
            assert facts == (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_nlink,
                status.st_size,
                status.st_mtime_ns,
            )
        if path.is_symlink():
            assert reader.target(inode) == os.fsencode(path.readlink())
        elif path.is_file():
            assert reader.content(inode) == path.read_bytes(), name
            assert reader.has_all_chunks(inode)
    assert reader.attributes(files["text"]) == {b"user.colour": b"blue\0"}


def test_packs_describe_themselves(filled: Path, tmp_path: Path) -> None:
    reader = Reader(filled, tmp_path / "index.sqlite")
    known = {(row["name"], row["hash"]) for row in reader.query("SELECT * FROM blocks JOIN packs ON packs.id = pack")}
    told = {(name, block) for name in reader.pack_names() for block in reader.table_of(name)}
    assert known <= told
    assert known


def test_the_program_on_the_page_reads_an_encrypted_volume(
    workspace: Path, cas3fs_mount_options: tuple[str, ...]
) -> None:
    volume = TemporaryVolume.make(workspace, "--encrypt", "--passphrase-file", str(_passphrase(workspace)))
    mount = TemporaryMount(volume, workspace / "m", cas3fs_mount_options)
    mount.up("--passphrase-file", str(workspace / "passphrase"))
    contents = {
        "sub/noise": random.Random(1).randbytes(3_000_000),
        "text": b"the same line\n" * 100_000,
        "sparse": bytes(20_000_000) + b"end",
        "small": b"x",
    }
    try:
        (mount / "sub").mkdir()
        for name, content in contents.items():
            (mount / name).write_bytes(content)
        for number in range(3000):
            (mount / f"a-rather-long-name-{number}").write_bytes(b"%d" % number)
    finally:
        mount.down()
    program = workspace / "read.py"
    program.write_text(_program_on_the_page())
    for name, content in contents.items():
        command = [sys.executable, str(program), str(workspace / "store"), PASSPHRASE, name]
        assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == content


def test_the_program_on_the_page_needs_no_cas3fs_and_is_short() -> None:
    program = _program_on_the_page()
    assert "cas3fs" not in {name for line in program.splitlines() if "import" in line for name in line.split()}
    assert sum(1 for line in program.splitlines() if line.strip()) <= 66


def _passphrase(folder: Path) -> Path:
    path = folder / "passphrase"
    path.write_text(PASSPHRASE)
    return path


def _program_on_the_page() -> str:
    page = Path(__file__).parents[2].joinpath("docs", "format.rst").read_text()
    _, _, code = page.partition(".. code-block:: python\n\n")
    lines = itertools.takewhile(lambda line: not line or line.startswith("    "), code.splitlines())
    return textwrap.dedent("\n".join(lines))


# --- the reader, from the page alone


class Reader:
    """A volume in a directory, as of its newest snapshot."""

    def __init__(self, store: Path, index: Path) -> None:
        self._store = store
        assert self.entry("volume", "volume")["format"] == 1
        keys = sorted(str(path.relative_to(store)) for path in (store / "snapshots").iterdir())
        index.write_bytes(self._restored(self.entry("snapshot", keys[-1])))
        self._database = sqlite3.connect(index)
        self._database.row_factory = sqlite3.Row
        assert [tuple(row) for row in self.query("SELECT * FROM alembic_version")] == [("0004",)]

    def entry(self, kind: str, key: str) -> dict:
        body = (self._store / key).read_bytes()
        magic, version, length = struct.unpack(">8sH2xI", body[:16])
        assert (magic, version) == (b"CAS3ENTR", 1)
        assert blake3(body[: 16 + length]).digest() == body[16 + length : 48 + length]
        assert blake3(body[48 + length : -32]).digest() == body[-32:]
        head = json.loads(body[16 : 16 + length])
        assert (head["kind"], head["key"]) == (kind, key)
        return head["attributes"]

    def _restored(self, manifest: dict) -> bytes:
        image = bytearray()
        for key, offset, length, digest in manifest["parts"]:
            stored = self._range(key, offset, length)
            assert blake3(stored).hexdigest() == digest
            for place, segment_digest in references_in(stored):
                rest = manifest["index_size"] - len(image)
                plain = decode(self._range(*place), min(manifest["segment_size"], rest))
                assert blake3(plain).digest()[:16] == segment_digest
                image += plain
        assert len(image) == manifest["index_size"]
        return bytes(image)

    def _range(self, key: str, offset: int, length: int) -> bytes:
        with open(self._store / key, "rb") as file:
            file.seek(offset)
            return file.read(length)

    def query(self, sql: str, *values: object) -> list[sqlite3.Row]:
        return self._database.execute(sql, values).fetchall()

    def files(self, parent: int = 1, path: str = "") -> dict[str, int]:
        found = {}
        for row in self.query("SELECT name, inode FROM dentries WHERE parent = ?", parent):
            name = path + os.fsdecode(row["name"])
            found[name] = row["inode"]
            found |= self.files(row["inode"], f"{name}/")
        return found

    def inode(self, inode: int) -> sqlite3.Row:
        return self.query("SELECT * FROM inodes WHERE id = ?", inode)[0]

    def target(self, inode: int) -> bytes:
        return self.query("SELECT target FROM symlinks WHERE inode = ?", inode)[0]["target"]

    def attributes(self, inode: int) -> dict[bytes, bytes]:
        return {row["name"]: row["value"] for row in self.query("SELECT * FROM xattrs WHERE inode = ?", inode)}

    def content(self, inode: int) -> bytes:
        content = bytearray(self.inode(inode)["size"])
        chunks = self.query(
            "SELECT c.offset AS start, c.length, c.skip, b.*, p.name FROM chunks c JOIN blocks b ON b.id = c.block "
            "JOIN packs p ON p.id = b.pack WHERE c.inode = ?",
            inode,
        )
        for one in chunks:
            stored = self._range(f"packs/{one['name']}", one["offset"], one["stored_length"])
            plain = decode(stored, one["plain_length"])
            assert blake3(plain).digest() == one["hash"]
            content[one["start"] : one["start"] + one["length"]] = plain[one["skip"] : one["skip"] + one["length"]]
        return bytes(content)

    def has_all_chunks(self, inode: int) -> bool:
        p = 2**31 - 1
        marks = [
            row["block"] % p * ((3 * (row["offset"] % p) + 5 * (row["length"] % p) + 7 * (row["skip"] % p) + 1) % p) % p
            for row in self.query("SELECT * FROM chunks WHERE inode = ?", inode)
        ]
        row = self.inode(inode)
        bytes_in_chunks = self.query("SELECT coalesce(sum(length), 0) FROM chunks WHERE inode = ?", inode)[0][0]
        noted = (row["chunk_count"], row["chunk_sum"], row["chunk_bytes"])
        return noted == (len(marks), sum(marks), bytes_in_chunks)

    def pack_names(self) -> list[str]:
        return [f"{path.parent.name}/{path.name}" for path in (self._store / "packs").glob("*/*")]

    def table_of(self, name: str) -> list[bytes]:
        pack = (self._store / "packs" / name).read_bytes()
        assert blake3(pack).hexdigest() == name.partition("/")[2]
        assert struct.unpack(">8sH", pack[:10]) == (b"CAS3PACK", 1)
        size, count, version, digest, magic = struct.unpack(">QIH10x32s8s", pack[-64:])
        assert (size, version, magic) == (len(pack), 1, b"CAS3PEND")
        table = pack[-64 - 48 * count : -64]
        assert blake3(table + pack[-64:-40]).digest() == digest
        blocks = []
        for block, offset, length, plain_length in struct.iter_unpack(">32sQII", table):
            assert blake3(decode(pack[offset : offset + length], plain_length)).digest() == block
            blocks.append(block)
        return blocks


def decode(encoded: bytes, plain_length: int) -> bytes:
    codec, payload = encoded[0], encoded[1:]
    assert codec in (0, 1)
    plain = zstandard.ZstdDecompressor().decompress(payload) if codec else payload
    assert len(plain) == plain_length
    return plain


def references_in(stored: bytes) -> list[tuple[tuple[str, int, int], bytes]]:
    """Where each segment of a list is stored, and its hash."""
    plain = decode(stored[4:], struct.unpack(">I", stored[:4])[0])
    magic, version, n, m = struct.unpack(">8sHHH2x", plain[:16])
    assert (magic, version) == (b"CAS3LIST", 1)
    keys = []
    for number in range(m):
        line = plain[16 + 12 * number : 28 + 12 * number]
        epoch, part, sequence = (int.from_bytes(line[a:b]) for a, b in ((0, 4), (4, 7), (7, 12)))
        keys.append(f"pages/{epoch:08d}-{sequence:010d}" + (f"-{part:06d}" if part else ""))
    rest = plain[16 + 12 * m :]
    sources = struct.unpack(f">{n}H", rest[: 2 * n])
    lengths = struct.unpack(f">{n}I", rest[2 * n : 6 * n])
    steps = struct.unpack(f">{n}q", rest[6 * n : 14 * n])
    hashes = [rest[14 * n + 16 * i : 14 * n + 16 * i + 16] for i in range(n)]
    found, end = [], 0
    for source, length, step, digest in zip(sources, lengths, steps, hashes, strict=True):
        found.append(((keys[source], end + step, length), digest))
        end += step + length
    return found
