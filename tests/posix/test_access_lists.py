# SPDX-License-Identifier: GPL-3.0-or-later
"""POSIX access lists, with the local file system as the model: the same commands show the same there."""

import os
import random
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount

pytestmark = pytest.mark.frontend("kernel", lacks="POSIX access lists")

USERS = ("--reuid=1000 --regid=1000 --clear-groups", "--reuid=1001 --regid=1001 --groups=2000")
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWNER, USER, GROUP, MASK, OTHER = 1, 2, 4, 16, 32
NOBODY = 0xFFFF_FFFF


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory of a local file system that has access lists."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as other users")
    shutil.chown(tmp_path, 0, 0)
    for above in (tmp_path, *tmp_path.parents[:3]):
        if not above.samefile("/tmp") and not above.samefile("/"):
            above.chmod(above.stat().st_mode | 0o011)
    made = tmp_path / "model"
    made.mkdir()
    made.chmod(0o777)
    if subprocess.run(["setfacl", "-m", "u:1000:r", made], capture_output=True, check=False).returncode:
        pytest.skip(f"{tmp_path} has no access lists to compare with")
    subprocess.run(["setfacl", "-b", made], check=True)
    return made


def shown_by(script: str, folder: Path) -> str:
    """What a script prints, its errors included, and what is there afterwards."""
    ending = "find . ! -type l | sort | xargs getfacl; find . -printf '%P %M %u %g\\n' | sort"
    code = f"exec 2>&1; umask 022; {script}\n{ending}"
    done = subprocess.run(
        ["/bin/sh", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    return done.stdout + done.stderr


def random_lines(seed: int) -> Iterator[str]:
    dice = random.Random(seed)
    paths = ["d", "f"]
    yield "mkdir d; touch f"
    for number in range(40):
        path = dice.choice(paths)
        default = dice.choice(["", "", "d:"])
        who = dice.choice(["u:1000", "u:1001", "g:2000", "u:", "g:", "m:", "o:"])
        parent = dice.choice([one for one in paths if one.startswith("d")])
        new = f"{parent}/{dice.choice('df')}{number}"
        kind = dice.randrange(10)
        if kind < 4:
            yield f"setfacl -m {default}{who}:{dice.choice(['rwx', 'rx', 'r', 'w', '-'])} {path}; echo $?"
        elif kind == 4:
            yield f"setfacl {dice.choice(['-b', '-k', '-x u:1000', '-x m', '-n -m u:1001:rwx'])} {path}; echo $?"
        elif kind == 5:
            yield f"chmod {dice.choice(['640', '2755', '777', '0', '1770', 'g+s', 'g-rwx'])} {path}; echo $?"
        elif kind == 6:
            yield f"chown {dice.choice(['1000', '1001:2000', ':2000', '0:0'])} {path}; echo $?"
        else:
            make = "mkdir" if "/d" in f"/{new.rpartition('/')[2]}" else dice.choice(["touch", "mkfifo", "ln -s x"])
            (paths.append(new) if make in ("mkdir", "touch") else None)
            yield f"(umask {dice.choice(['022', '077', '0', '027'])}; {make} {new}); echo $?"
    for path in paths:
        for user in USERS:
            checks = " ".join(f"test -{right} {path}; echo $?;" for right in "rwx")
            yield f"setpriv {user} sh -c 'echo {path}; {checks}'"


@pytest.mark.promise("access-lists-work")
@pytest.mark.parametrize("seed", range(6))
def test_lists_modes_and_access_are_those_of_a_local_disk(folder: Path, model: Path, seed: int) -> None:
    script = "\n".join(random_lines(seed))
    assert shown_by(script, folder) == shown_by(script, model)


@pytest.mark.promise("access-lists-work")
def test_a_list_lets_a_user_write_and_is_there_after_a_remount(
    folder: Path, mount: TemporaryMount, model: Path
) -> None:
    def write_as_user() -> int:
        command = ["setpriv", *USERS[0].split(), "sh", "-c", "echo x >> f"]
        return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode

    (folder / "f").touch(0o600)
    assert write_as_user() != 0
    subprocess.run(["setfacl", "-m", "u:1000:rw", folder / "f"], check=True)
    assert write_as_user() == 0
    before = os.getxattr(folder / "f", ACCESS)
    mount.again("-o", "dev,suid", keep_state=False)
    assert os.getxattr(folder / "f", ACCESS) == before
    assert write_as_user() == 0
    (folder / "f").chmod(0o600)  # the mask now forbids it
    assert write_as_user() != 0


@pytest.mark.promise("access-lists-work")
@pytest.mark.parametrize("copy", [["cp", "-a"], ["rsync", "-aA"]], ids=" ".join)
def test_copies_have_the_lists_of_the_original(folder: Path, model: Path, copy: list[str]) -> None:
    shown_by("mkdir d; touch d/f; setfacl -m u:1000:rw d/f; setfacl -m u:1001:rwx,d:g:2000:rx d", model)
    subprocess.run([*copy, f"{model}/d", f"{folder}/"], check=True)
    assert shown_by("", folder / "d") == shown_by("", model / "d")


def value_of(*entries: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


MINIMAL = ((OWNER, 6, NOBODY), (GROUP, 4, NOBODY), (OTHER, 4, NOBODY))


@pytest.mark.parametrize(
    "value",
    [
        value_of(*MINIMAL, version=1),
        value_of(*MINIMAL)[:-1],
        value_of(*MINIMAL[:2]),
        value_of((OWNER, 6, NOBODY), (USER, 6, 1000), *MINIMAL[1:]),
        value_of(*MINIMAL, (OTHER, 4, NOBODY)),
        value_of((OWNER, 8, NOBODY), *MINIMAL[1:]),
    ],
    ids=["version", "length", "incomplete", "no mask", "twice", "permissions"],
)
def test_a_malformed_list_is_refused(folder: Path, value: bytes) -> None:
    (folder / "f").touch(0o640)
    with pytest.raises(OSError, match=r"Invalid argument|not supported"):
        os.setxattr(folder / "f", ACCESS, value)
    assert stat.S_IMODE((folder / "f").stat().st_mode) == 0o640


def test_a_list_that_says_what_the_mode_says_is_not_kept(folder: Path) -> None:
    (folder / "f").touch(0o600)
    os.setxattr(folder / "f", ACCESS, value_of(*MINIMAL))
    assert stat.S_IMODE((folder / "f").stat().st_mode) == 0o644
    assert os.listxattr(folder / "f") == []


@pytest.mark.promise("access-lists-work")
def test_without_lists_nobody_asks_for_them_per_file(folder: Path, mount: TemporaryMount) -> None:
    """A file that root makes, writes and closes costs one question for an attribute, and no more with more writes."""

    def questions() -> int:
        return int(mount.stats()["kernel_requests"].get("getxattr", 0))

    before = questions()
    for number in range(50):
        with open(folder / f"{number}", "wb", buffering=0) as file:
            file.writelines([b"x"] * 4)
    assert questions() - before <= 51
