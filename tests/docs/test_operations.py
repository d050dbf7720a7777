# SPDX-License-Identifier: GPL-3.0-or-later
"""The service and the helper of mount(8) in docs/operations.rst do what the page says."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cas3fs.cli.program import program
from cas3fs.testing.volumes import TemporaryVolume

PAGE = (Path(__file__).parents[2] / "docs" / "operations.rst").read_text()


def block(kind: str, beginning: str) -> str:
    found = re.search(rf"\.\. code-block:: {kind}\n\n(    {re.escape(beginning)}(?:.*\n|\n(?=    |\n))+)", PAGE)
    assert found is not None
    return textwrap.dedent(re.split(r"\n(?=\S)", found[1])[0])


def test_the_service_runs_commands_that_exist() -> None:
    commands = re.findall(r"^Exec\w+=\S+/cas3fs (\w+) (.*)$", block("ini", "[Unit]"), re.MULTILINE)
    assert [verb for verb, _ in commands] == ["mount", "umount"]
    for verb, words in commands:
        options = {word for word in words.split() if word.startswith("--")}
        assert options <= {name for parameter in program.commands[verb].params for name in parameter.opts}


@pytest.mark.usefixtures("need_fuse")
def test_the_helper_of_mount_8_mounts_a_volume(cas3fs_volume: TemporaryVolume, tmp_path: Path) -> None:
    fstab = re.search(r"^    s3://my-bucket/volume +/mnt/volume +cas3fs +(\S+)", PAGE, re.MULTILINE)
    assert fstab is not None
    environment = tmp_path / "environment"
    environment.write_text("".join(f"{name}={value}\n" for name, value in cas3fs_volume.environment.items()))
    script = block("sh", "#!/bin/sh").replace("/etc/cas3fs/environment", str(environment))
    helper, mountpoint = tmp_path / "mount.cas3fs", tmp_path / "volume"
    helper.write_text(script.replace("/opt/cas3fs/bin/cas3fs", f"{sys.executable} -m cas3fs"))
    mountpoint.mkdir()
    arguments = [cas3fs_volume.url, str(mountpoint), "-o", f"rw,{fstab[1]}"]
    done = subprocess.run(["sh", helper, *arguments], env=os.environ, capture_output=True, text=True, check=False)
    try:
        assert (done.returncode, done.stderr) == (0, "")
        assert mountpoint.is_mount()
    finally:
        cas3fs_volume.run("umount", mountpoint)
