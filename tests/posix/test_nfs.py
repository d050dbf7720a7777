# SPDX-License-Identifier: GPL-3.0-or-later
"""A mount is exported by NFS: by nfs-ganesha, which opens files by their handles, to a client without the kernel.

The tests need the programs of Debian's packages nfs-ganesha, nfs-ganesha-vfs and libnfs-utils. As these bring servers
that begin with the machine, nothing installs them; without them the tests are skipped.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount

from .test_handles import forget_inodes

PROGRAMS = ("ganesha.nfsd", "nfs-ls", "nfs-cp", "nfs-cat")
TIMEOUT_S = 30
pytestmark = [
    pytest.mark.frontend("kernel", lacks="handles of forgotten files"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may open by handle"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason="nfs-ganesha or libnfs-utils is not installed"),
]

CONFIGURATION = """
NFS_CORE_PARAM {{
    NFS_Port = {port}; Bind_addr = 127.0.0.1; Protocols = 4; Plugins_Dir = {plugins};
    Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true;
}}
NFSv4 {{
    Graceless = true; RecoveryBackend = fs; RecoveryRoot = {state};
    UseGetpwnam = true; Only_Numeric_Owners = true;
}}
EXPORT {{
    Export_Id = 1; Path = {mount}; Pseudo = /m; Filesystem_Id = 7.1; Access_Type = RW; Squash = No_Root_Squash;
    SecType = sys; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }}
}}
"""


class Client:
    """Calls the programs of libnfs."""

    def __init__(self, port: int) -> None:
        self._port = port

    def _url(self, name: str) -> str:
        return f"nfs://127.0.0.1/m/{name}?version=4&nfsport={self._port}"

    def names(self, folder: str = "") -> set[str]:
        done = subprocess.run(["nfs-ls", self._url(folder)], check=True, capture_output=True, timeout=TIMEOUT_S)
        return {line.split()[-1].decode() for line in done.stdout.splitlines()}

    def put(self, source: Path, name: str) -> None:
        subprocess.run(["nfs-cp", source, self._url(name)], check=True, capture_output=True, timeout=TIMEOUT_S)

    def get(self, name: str) -> bytes:
        done = subprocess.run(["nfs-cat", self._url(name)], check=True, capture_output=True, timeout=TIMEOUT_S)
        return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def exported(mount: Path, folder: Path) -> Iterator[Client]:
    """A server that exports `mount`, with its files in `folder`."""
    program = Path(shutil.which("ganesha.nfsd") or "")
    plugins = next(program.resolve().parents[1].glob("lib/*/ganesha"))
    port, state = free_port(), folder / "state"
    state.mkdir(exist_ok=True)
    (folder / "conf").write_text(CONFIGURATION.format(port=port, plugins=plugins, state=state, mount=mount))
    server = subprocess.Popen(
        [program, "-F", "-f", folder / "conf", "-L", folder / "log", "-p", folder / "pid"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            assert server.poll() is None, (folder / "log").read_text()
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < deadline_s, (folder / "log").read_text()
            time.sleep(0.1)
        yield Client(port)
    finally:
        server.kill()
        server.wait()


@pytest.mark.promise("handles-are-stable")
@pytest.mark.lasts(240, long_s=240)
def test_a_mount_can_be_exported_by_nfs(need_fuse: None, cas3fs_mount: TemporaryMount, tmp_path: Path) -> None:
    mount, source = cas3fs_mount, tmp_path / "source"
    source.write_bytes(os.urandom(1000))  # with much more the client fails, on a local disk too
    (mount.path / "folder").mkdir()
    large = os.urandom(3_000_000)
    (mount.path / "folder" / "here").write_bytes(large)
    with exported(mount.path, tmp_path) as client:
        client.put(source, "there")
        assert (mount.path / "there").read_bytes() == source.read_bytes()
        assert client.names() == {"folder", "there"}
        forget_inodes()
        assert client.get("folder/here") == large
        assert client.get("there") == source.read_bytes()
        (mount.path / "there").rename(mount.path / "folder" / "moved")
    mount.again(keep_state=False)
    with exported(mount.path, tmp_path) as client:
        assert client.names("folder") == {"here", "moved"}
        assert client.get("folder/moved") == source.read_bytes()
