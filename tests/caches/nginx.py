# SPDX-License-Identifier: GPL-3.0-or-later
"""A real nginx with WebDAV, configured as the documentation says, on a free port of the loopback interface."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cas3fs.testing.servers import ServerProcess, accepts_connections, free_port

DOCUMENT = Path(__file__).parents[2] / "docs/caches.rst"
START_DEADLINE_S = 10
_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client-body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
}}
"""


class Nginx(ServerProcess):
    """A running nginx; what is put lies below `root`."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "there is no nginx: install the system's package of that name"
        self.root = folder / "root"
        self.root.mkdir()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        location = documented_location().replace("/srv/cache", str(self.root))
        configuration = folder / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(folder=folder, port=port, location=location))
        log = folder / "log"
        command = [program, "-p", str(folder), "-e", str(log), "-c", str(configuration)]
        self.process = subprocess.Popen(command, start_new_session=True)
        deadline_s = time.monotonic() + START_DEADLINE_S
        while not accepts_connections(port):
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    def files(self) -> list[Path]:
        """The files of blocks that it keeps."""
        return [path for path in self.root.rglob("*") if path.is_file()]


def documented_location() -> str:
    """The lines for nginx's configuration that the documentation gives."""
    lines = DOCUMENT.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.strip().startswith("location /blocks/"))
    last = next(number for number in range(first, len(lines)) if lines[number].strip() == "}")
    return "\n".join(lines[first : last + 1])


@contextmanager
def nginx(folder: Path) -> Iterator[Nginx]:
    """An nginx with its files in `folder`; gone at the end of the ``with``."""
    server = Nginx(folder)
    try:
        yield server
    finally:
        server.kill()
