# SPDX-License-Identifier: GPL-3.0-or-later
"""Permissions: owners, groups, modes, sticky and set-id bits, as an ordinary user sees them."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from .conftest import GROUP, USER, AsUser

pytestmark = pytest.mark.frontend("kernel", "llfuse")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.promise("permissions-are-checked")
def test_sticky_directories_protect_files_of_others(folder: Path, as_user: AsUser) -> None:
    folder.chmod(0o1777)
    for name in ("roots", "over"):
        (folder / name).write_text(name)
    assert as_user("echo x > his && mv his moved && rm moved").returncode == 0
    for command in ("rm -f roots", "mv roots gone", "touch new && mv new over", "rmdir ."):
        assert as_user(command).returncode != 0, command
    assert (folder / "roots").read_text() == "roots"
    assert (folder / "over").read_text() == "over"


@pytest.mark.promise("permissions-are-checked")
def test_write_permission_is_enforced(folder: Path, as_user: AsUser) -> None:
    folder.chmod(0o755)
    (folder / "f").write_text("x")
    for command in ("echo y > f", "rm -f f", "mkdir d", "ln f g", "mv f g", "ln -s f s", "chmod 777 f", "chown 1000 f"):
        assert as_user(command).returncode != 0, command
    assert os.listdir(folder) == ["f"]
    assert as_user("cat f").stdout == "x"


@pytest.mark.promise("permissions-are-checked")
def test_search_and_read_permission_of_directories(folder: Path, as_user: AsUser) -> None:
    for name, mode in (("search", 0o711), ("read", 0o744)):
        (folder / name).mkdir()
        (folder / name / "f").write_text("x")
        (folder / name).chmod(mode)
    assert as_user("cat search/f").stdout == "x"
    assert "Permission denied" in as_user("ls search").stderr
    assert "f" in as_user("ls read").stdout
    assert "Permission denied" in as_user("cat read/f").stderr


@pytest.mark.promise("permissions-are-checked")
def test_supplementary_groups_count(folder: Path, as_user: AsUser) -> None:
    (folder / "f").write_text("x")
    os.chown(folder / "f", 0, GROUP)
    (folder / "f").chmod(0o640)
    assert as_user("cat f").returncode != 0
    assert as_user("cat f", groups=(GROUP,)).stdout == "x"


@pytest.mark.promise("permissions-are-checked")
def test_setgid_directories_pass_on_group_and_bit(folder: Path, as_user: AsUser) -> None:
    os.chown(folder, 0, GROUP)
    folder.chmod(0o2777)
    assert as_user("umask 022; mkdir d && echo x > f && mkfifo p && ln -s f s && mkdir d/deeper").returncode == 0
    for name in ("d", "f", "p", "s", "d/deeper"):
        about = (folder / name).lstat()
        assert (about.st_uid, about.st_gid) == (USER, GROUP), name
    assert mode_of(folder / "d") == mode_of(folder / "d" / "deeper") == 0o2755
    assert mode_of(folder / "f") == 0o644


@pytest.mark.promise("permissions-are-checked")
def test_new_files_get_the_group_of_their_creator(folder: Path, as_user: AsUser) -> None:
    os.chown(folder, 0, GROUP)
    assert as_user("umask 022; mkdir d && echo x > f").returncode == 0
    assert (folder / "d").stat().st_gid == (folder / "f").stat().st_gid == USER


@pytest.mark.promise("permissions-are-checked")
def test_setgid_needs_membership_in_the_group(folder: Path, as_user: AsUser) -> None:
    (folder / "f").write_text("x")
    os.chown(folder / "f", USER, GROUP)
    assert as_user("chmod 2755 f").returncode == 0
    assert mode_of(folder / "f") == 0o755
    assert as_user("chmod 2755 f", groups=(GROUP,)).returncode == 0
    assert mode_of(folder / "f") == 0o2755


@pytest.mark.promise("permissions-are-checked")
def test_writes_by_users_clear_setuid_and_setgid(folder: Path, as_user: AsUser) -> None:
    for command in ("echo y >> f", "echo y > f", "truncate -s 0 f"):
        (folder / "f").write_text("x")
        (folder / "f").chmod(0o6777)
        assert as_user(command).returncode == 0
        assert mode_of(folder / "f") == 0o777, command


@pytest.mark.promise("permissions-are-checked")
@pytest.mark.parametrize("command", ["echo y >> f", "echo y > f", "truncate -s 0 f", "fallocate -l 9 f"])
def test_nobody_sees_set_id_bits_that_a_write_has_cleared(folder: Path, as_user: AsUser, command: str) -> None:
    """Nor does a program that asks the kernel for the mode alone, as exec does."""
    (folder / "f").write_text("x")
    (folder / "f").chmod(0o6777)
    shown = as_user(f"exec 3<>f; {command}; stat -c %a f")
    if "fallocate" not in shown.stderr:  # which llfuse has not
        assert shown.stdout == "777\n"


@pytest.mark.promise("permissions-are-checked")
@pytest.mark.parametrize("command", ["echo y >> f", "echo y > f", "truncate -s 0 f", "chown :1000 f"])
def test_changes_remove_the_capabilities_of_a_file(folder: Path, as_user: AsUser, command: str) -> None:
    (folder / "f").write_text("x")
    (folder / "f").chmod(0o777)
    os.chown(folder / "f", USER, GROUP)
    subprocess.run(["setcap", "cap_net_raw+ep", folder / "f"], check=True, env={"PATH": "/usr/sbin:/sbin"})
    assert os.listxattr(folder / "f") == ["security.capability"]
    assert as_user(command).returncode == 0
    assert os.listxattr(folder / "f") == []


@pytest.mark.promise("permissions-are-checked")
def test_chown_clears_setuid_and_checks_the_group(folder: Path, as_user: AsUser) -> None:
    (folder / "f").write_text("x")
    os.chown(folder / "f", USER, USER)
    (folder / "f").chmod(0o6755)
    assert as_user(f"chgrp {GROUP} f").returncode != 0
    assert mode_of(folder / "f") == 0o6755
    assert as_user(f"chgrp {GROUP} f", groups=(GROUP,)).returncode == 0
    assert (mode_of(folder / "f"), (folder / "f").stat().st_gid) == (0o755, GROUP)


@pytest.mark.promise("permissions-are-checked")
def test_permission_to_set_times(folder: Path, as_user: AsUser) -> None:
    (folder / "f").write_text("x")
    (folder / "f").chmod(0o666)
    os.utime(folder / "f", (5, 5))
    assert as_user("touch f").returncode == 0
    assert (folder / "f").stat().st_mtime > 5
    assert as_user("touch -d @5 f").returncode != 0
    os.chown(folder / "f", USER, USER)
    assert as_user("touch -d @5 f").returncode == 0
    assert (folder / "f").stat().st_mtime == 5


@pytest.mark.promise("permissions-are-checked", "devices-and-set-id-bits-need-an-option")
def test_setuid_programs_work_if_the_mount_allows_them(folder: Path, as_user: AsUser) -> None:
    program = folder / "who"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    assert as_user("./who -u").stdout.strip() == "0"
