# SPDX-License-Identifier: GPL-3.0-or-later
"""What processes do to the files of a folder, according to strace: operations, in the order in which they ended.

Reads are left out, and so are changes through mapped memory: that is SQLite's shared memory, which means nothing after
a power loss.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import attrs

CALLS = (
    "openat,open,creat,pwrite64,write,pwritev,pwritev2,writev,ftruncate,truncate,fallocate,fsync,fdatasync,"
    "sync_file_range,rename,renameat,renameat2,unlink,unlinkat,link,linkat,mkdir,mkdirat,rmdir,copy_file_range,"
    "sendfile"
)
_LONGEST_WRITE_BYTES = 64 << 20
_LINE = re.compile(r"\d+ +(?P<start>[\d.]+) (?P<call>\w+)\((?P<arguments>.*)\) = (?P<answer>.*) <(?P<took>[\d.]+)>")
_FILE = re.compile(r"-?\w+<(?P<path>[^>]*)>(?P<gone>\(deleted\))?")
_BYTE = re.compile(r"\\x([0-9a-f]{2})")


@attrs.frozen
class TracedOperation:
    """A system call that changed something, or waited for the disk."""

    call: str
    path: str
    """The path of the file or folder at that time."""
    start_s: float
    end_s: float
    data: bytes = b""
    offset: int | None = None
    """Of a write; None: where the last one ended. Also the length of a truncation or reservation."""
    target: str = ""
    """The new name of a rename or a link."""
    flags: str = ""
    was_gone: bool = False
    """The file had already lost that name."""


def traced(command: Sequence[str], output: Path) -> None:
    """Run a command and all processes it starts, and trace them to `output`."""
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-xx", "-ttt", "-T", "-e", "signal=none"]
    strace += ["-e", "status=successful", "-e", f"trace={CALLS}", "-s", str(_LONGEST_WRITE_BYTES), "-o", str(output)]
    subprocess.run([*strace, *command], check=True, timeout=250)


def operations(output: Path, folders: Iterable[Path]) -> Iterator[TracedOperation]:
    """The operations on `folders` and below them."""
    beginnings = tuple(map(str, folders))
    marks = ["".join(f"\\x{byte:02x}" for byte in path.encode()) for path in beginnings]
    with output.open() as lines:
        for line in lines:
            if any(mark in line for mark in marks):
                found = _LINE.match(line)
                assert found, line[:300]
                operation = _operation(found)
                if operation is not None and operation.path.startswith(beginnings):
                    yield operation


def _operation(found: re.Match[str]) -> TracedOperation | None:
    start_s = float(found["start"])
    arguments = found["arguments"].split(", ")
    call = found["call"].removesuffix("2").removesuffix("64")
    make = _Maker(call, start_s, start_s + float(found["took"]), arguments)
    return make.operation(found["answer"])


@attrs.frozen
class _Maker:
    call: str
    start_s: float
    end_s: float
    arguments: list[str]

    def operation(self, answer: str) -> TracedOperation | None:
        match self.call:
            case "openat":
                return self._opened(self._joined(0), self.arguments[2])
            case "open" | "creat":
                return self._opened(self._text(0), self.arguments[1] if self.call == "open" else "O_CREAT|O_TRUNC")
            case "write" | "pwrite":
                written = int(answer)
                offset = int(self.arguments[3]) if self.call == "pwrite" else None
                return self._on_file(data=_decoded(self.arguments[1][1:-1])[:written], offset=offset)
            case "ftruncate":
                return self._on_file(offset=int(self.arguments[1]))
            case "fallocate":
                assert self.arguments[1] == "0", self.arguments
                return self._on_file(offset=int(self.arguments[2]) + int(self.arguments[3]))
            case "fsync" | "fdatasync":
                return self._on_file()
            case "sync_file_range":
                return None  # checks whether a write was lost; it makes nothing durable
            case "rename" | "link":
                return self._made(self._text(0), target=self._text(1))
            case "renameat" | "linkat":
                return self._made(self._joined(0), target=self._joined(2))
            case "unlink" | "rmdir" | "mkdir":
                return self._made(self._text(0))
            case "unlinkat" | "mkdirat":
                return self._made(self._joined(0))
        raise AssertionError(f"{self.call} is not supported: {self.arguments[0]}")

    def _made(self, path: str, **more: str) -> TracedOperation:
        return TracedOperation(self.call.removesuffix("at"), path, self.start_s, self.end_s, **more)

    def _opened(self, path: str, flags: str) -> TracedOperation | None:
        if "O_CREAT" not in flags and "O_TRUNC" not in flags:
            return None
        return TracedOperation("open", path, self.start_s, self.end_s, flags=flags)

    def _on_file(self, data: bytes = b"", offset: int | None = None) -> TracedOperation:
        file = _FILE.match(self.arguments[0])
        assert file, self.arguments[0]
        path = _decoded(file["path"]).decode()
        return TracedOperation(self.call, path, self.start_s, self.end_s, data, offset, was_gone=bool(file["gone"]))

    def _text(self, number: int) -> str:
        return _decoded(self.arguments[number].strip('"')).decode()

    def _joined(self, number: int) -> str:
        """A path that is relative to an open folder."""
        folder = _FILE.match(self.arguments[number])
        assert folder, self.arguments[number]
        return str(PurePosixPath(_decoded(folder["path"]).decode(), self._text(number + 1)))


def _decoded(text: str) -> bytes:
    assert len(text) % 4 == 0, text[-40:]
    return bytes.fromhex(text.replace("\\x", ""))
