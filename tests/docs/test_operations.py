# SPDX-License-Identifier: GPL-3.0-or-later
"""The service and the helper of mount(8) in docs/operations.rst do what the page says."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from cas3fs.cli.program import load_verb
from cas3fs.testing.volumes import TemporaryMount, TemporaryVolume

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
        assert options <= {name for parameter in load_verb(verb).params for name in parameter.opts}


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


@pytest.mark.usefixtures("need_fuse")
def test_the_values_to_monitor_exist(cas3fs_mount: TemporaryMount) -> None:
    (cas3fs_mount / "f").write_bytes(b"x")
    cas3fs_mount.flush()
    cas3fs_mount.volume.run("fsck", cas3fs_mount.path)
    table = PAGE.partition("what to watch for")[2].partition(".. code-block")[0]
    names = re.findall(r"``([\w.]+)``", "".join(re.findall(r'^   "(.*?)", ', table, re.MULTILINE)))
    assert len(names) == 13
    stats = cas3fs_mount.stats()
    assert [name for name in names if not has_value(stats, name)] == []


def has_value(report: dict[str, Any], name: str) -> bool:
    """Whether a JSON object has a value under that name, of which the first part may name an object in it."""
    outer, _, inner = name.partition(".")
    return name in report or (isinstance(report.get(outer), dict) and has_value(report[outer], inner))
