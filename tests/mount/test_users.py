# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may mount, and what is said to who may not.

Each mount is made by a process in a mount namespace of its own, in which the device ``/dev/fuse`` has the mode that the
test wants: udev makes it open to all users, and machines without udev have it for root alone.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import TIMEOUT_S, CliMachine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

USER = "1000"
ORDINARY = f"--reuid {USER} --regid {USER} --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search"
"""An ordinary user, who finds the interpreter and its libraries wherever they are."""
WITHOUT_RIGHTS = "--bounding-set -sys_admin"
FUSE, NOTHING = "10 229", "10 254"
"""Device numbers: of FUSE, and of what no driver serves."""
PREPARE = """
mount -t tmpfs none "$1" && mknod -m "$2" "$1/fuse" c $3 && mount --bind "$1/fuse" /dev/fuse && shift 3 && exec "$@"
"""

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(machine: CliMachine, tmp_path: Path) -> Iterator[Run]:
    """Runs shell commands as somebody else; returns the exit status and what was printed."""
    machine.mkfs()
    devices = tmp_path / "devices"
    devices.mkdir()
    for folder in list(machine.root.parents)[:-2]:
        folder.chmod(folder.stat().st_mode | 0o011)
    for path in (machine.root, *machine.root.rglob("*")):
        os.chown(path, int(USER), int(USER))

    def run(
        script: str, who: str = ORDINARY, *, device: str = FUSE, mode: str = "666", path: str = os.environ["PATH"]
    ) -> tuple[int, str]:
        places = {"CAS3FS_STATE_DIR": str(machine.state), "CAS3FS_CACHE_DIR": str(machine.cache)}
        functions = f'cas3fs() {{ "{sys.executable}" -m cas3fs "$@"; }}\nexport PATH="{path}"\ncd {machine.root}\n'
        inner = ["setpriv", *who.split(), "/bin/sh", "-c", functions + script]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", PREPARE, "sh", devices, mode, device, *inner],
            env=os.environ | places | {"URL": machine.url, "FRONTEND": machine.frontend},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    yield run
    machine.clean_up()


@pytest.mark.frontend("kernel", "llfuse")
def test_an_ordinary_user_mounts_uses_and_unmounts(run: Run) -> None:
    status, printed = run("""
        cas3fs mount --frontend $FRONTEND -o noatime,sync,dirsync,noexec,auto_unmount,x-any=1,user "$URL" m || exit 1
        grep " $PWD/m " /proc/self/mountinfo
        echo content > m/file && cat m/file && stat -c %u m m/file
        cas3fs umount m >/dev/null && ls m
    """)
    assert status == 0, printed
    table, *rest = printed.splitlines()
    of_mount, of_file_system = table.split()[5].split(","), table.split()[-1].split(",")
    assert {"nosuid", "nodev", "noexec", "noatime"} <= set(of_mount)
    assert {"sync", "dirsync"} <= set(of_file_system)
    assert rest == ["content", USER, USER]


def may_allow_other() -> bool:
    try:
        return "\nuser_allow_other" in "\n" + Path("/etc/fuse.conf").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(may_allow_other(), reason="users may give allow_other on this machine")
def test_a_user_who_may_not_open_the_mount_to_others_is_told(run: Run) -> None:
    """The volume is free afterwards: another machine mounts it."""
    status, printed = run('cas3fs mount -o allow_other "$URL" m')
    assert (status, len(printed.splitlines())) == (1, 1)
    assert "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf" in printed
    status, printed = run('CAS3FS_STATE_DIR=$PWD/other cas3fs mount "$URL" m && cas3fs umount m >/dev/null')
    assert (status, printed) == (0, "")


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"mode": "600"}, f"fusermount3: failed to open /dev/fuse: {os.strerror(errno.EACCES)}"),
        ({"path": "/nowhere"}, "there is no fusermount3; install the package fuse3"),
        ({"who": WITHOUT_RIGHTS}, "this process may not mount (a container needs the capability SYS_ADMIN)"),
        ({"who": WITHOUT_RIGHTS, "device": NOTHING}, "/dev/fuse cannot be opened (No such device"),
    ],
    ids=["no access to the device", "no fusermount3", "no right to mount", "no module"],
)
def test_who_cannot_mount_is_told_why_in_one_line(run: Run, changed: dict[str, str], told: str) -> None:
    status, printed = run('cas3fs mount "$URL" m', **changed)
    assert (status, len(printed.splitlines())) == (1, 1), printed
    assert told in printed
    assert "Traceback" not in printed


@pytest.mark.promise("a-secret-leaves-no-trace")
def test_a_mount_with_a_secret_is_closed_to_other_processes_of_its_user(run: Run) -> None:
    status, printed = run("""
        mkdir v2 && URL="${URL}2" && echo correct horse > file && export CAS3FS_PASSPHRASE="correct horse"
        cas3fs mkfs --encrypt "$URL" >/dev/null && cas3fs mount "$URL" m || exit 1
        unset CAS3FS_PASSPHRASE
        echo content > m/file && cas3fs flush m >/dev/null && cat m/file
        pid=$(sed 's/.*"pid": *//; s/[^0-9].*//' s/*/mount.json)
        stat -c "%u %U" /proc/$pid/environ
        cat /proc/$pid/environ >/dev/null
        head -c 1 /proc/$pid/mem >/dev/null
        cas3fs umount m >/dev/null
    """)
    assert status == 0, printed
    content, owner, environment, memory = printed.splitlines()
    assert content == "content"
    assert owner == "0 root"
    assert "Permission denied" in environment
    assert "Permission denied" in memory
