# SPDX-License-Identifier: GPL-3.0-or-later
"""Which mount a URL means."""

from contextlib import closing
from pathlib import Path

import pytest

from cas3fs.cli.common import find_mount
from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import ControlServer, MountRecord
from cas3fs.volume.location import lock_state_directory

URL = "s3://bucket/volume"
ONE, TWO = "http://one:9000", "http://two:9000"


def test_of_two_mounts_of_one_url_it_is_the_one_of_that_endpoint(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = LocalFolders(workspace / "s", workspace / "c")
    with (
        closing(lock_state_directory(folders, "u", StoreSettings(URL, ONE))) as first,
        closing(lock_state_directory(folders, "u", StoreSettings(URL, TWO))) as second,
    ):
        servers = []
        for number, state in enumerate((first, second)):
            MountRecord(URL, "u", f"/mnt/{number}", 1).save(state.path)
            servers.append(ControlServer(state.control, {}))
            servers[-1].start()
        try:
            for endpoint, mountpoint in ((ONE, "/mnt/0"), (f"{TWO}/", "/mnt/1")):
                target = find_mount(URL, folders, endpoint)
                assert target is not None
                assert str(target.mountpoint) == mountpoint
            assert find_mount(URL, folders, "http://three:9000") is None
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", TWO)
            target = find_mount(URL, folders)
            assert target is not None
            assert target.socket == second.control
        finally:
            for server in servers:
                server.close()
