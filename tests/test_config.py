# SPDX-License-Identifier: GPL-3.0-or-later
"""The local folders, and mount options."""

from pathlib import Path

from cas3fs.config import find_local_folders, split_options


def test_arguments_precede_the_environment_and_that_precedes_the_platform() -> None:
    environment = {"CAS3FS_STATE_DIR": "/env/state"}
    assert find_local_folders("/given", None, environment).state_dir == Path("/given")
    assert find_local_folders(None, None, environment).state_dir == Path("/env/state")
    assert find_local_folders(None, None, {}).cache_dir.name == "cas3fs"


def test_each_volume_has_its_own_folders() -> None:
    folders = find_local_folders("/s", "/c", {})
    assert folders.state_of("u") == Path("/s/u")
    assert folders.cache_of("u") == Path("/c/u/blocks")


def test_mount_options_are_split_at_commas() -> None:
    assert split_options(("a,b=c", "", "d,,e")) == ("a", "b=c", "d", "e")
    assert split_options(('context="a:b:c0,c1",d',)) == ('context="a:b:c0,c1"', "d")


def test_the_last_of_contradicting_mount_options_counts() -> None:
    assert split_options(("ro,dev,noatime,uid=1", "nodev,rw,uid=2")) == ("noatime", "nodev", "rw", "uid=2")
    assert split_options(("sync,async", "noallow_other,allow_other", "exec,noexec")) == (
        "async",
        "allow_other",
        "noexec",
    )
