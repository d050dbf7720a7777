# SPDX-License-Identifier: GPL-3.0-or-later
"""chattr and lsattr: immutable and append-only files, with the local file system as the model."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cas3fs.testing.volumes import TemporaryMount
from tests.posix.test_access_lists import shown_by

pytestmark = pytest.mark.frontend("kernel", lacks="ioctl")

CHANGES = (
    "echo x > {0}/f",
    "echo x >> {0}/f",
    "truncate -s 1 {0}/f",
    "chmod 600 {0}/f",
    "chown 1000 {0}/f",
    "touch {0}/f",
    "touch -d @5 {0}/f",
    "setfattr -n user.a -v b {0}/f",
    "setfacl -m u:1000:r {0}/f",
    "ln {0}/f {0}/hard",
    "mv {0}/f {0}/moved; mv {0}/moved {0}/f",
    "touch {0}/over; mv {0}/over {0}/f",
    "rm -f {0}/f; touch {0}/f",
    "cat {0}/f > /dev/null",
    "fallocate -l 10 {0}/f",
    "fallocate -p -l 1 {0}/f",
    "mkdir {0}/new; rmdir {0}/new",
    "ln -s x {0}/link; rm -f {0}/link",
    "mkfifo {0}/pipe; rm -f {0}/pipe",
)


def flag(change: str, path: Path) -> int:
    return subprocess.run(["chattr", change, path], capture_output=True, check=False).returncode


def flags_of(path: Path) -> str:
    shown = subprocess.run(["lsattr", "-d", path], capture_output=True, text=True, check=True)
    return shown.stdout.split()[0].replace("e", "-").strip("-")  # extents are ext4's own


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    """A directory of a local file system that has flags."""
    if os.geteuid() != 0:
        pytest.skip("only root can protect files")
    made = tmp_path / "model"
    made.mkdir()
    made.chmod(0o777)
    if flag("+i", made):
        pytest.skip(f"{tmp_path} has no flags to compare with")
    flag("-i", made)
    yield made
    subprocess.run(["chattr", "-R", "-ia", made], check=False)


@pytest.fixture
def unprotected(folder: Path) -> Iterator[Path]:
    """A directory on the mount, whose flags go with the test."""
    yield folder
    subprocess.run(["chattr", "-R", "-ia", folder], check=False)


@pytest.mark.promise("flags-protect")
@pytest.mark.parametrize("change", ["+i", "+a"])
@pytest.mark.parametrize("of", ["d", "d/f"])
def test_what_a_flag_forbids_is_what_it_forbids_on_a_local_disk(
    unprotected: Path, model: Path, change: str, of: str
) -> None:
    lines = [f"mkdir d; echo content > d/f; chattr {change} {of}"]
    lines += [f"{command.format('d')}; echo '{number}:' $?" for number, command in enumerate(CHANGES)]
    script = "\n".join([*lines, f"cat d/f; chattr {change.replace('+', '-')} {of} d/f d"])
    assert shown_by(script, unprotected) == shown_by(script, model)


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def outcomes_with_open_files(folder: Path, change: str) -> list[str]:
    """What a file that was opened before it got a flag can be changed by."""
    path = folder / "open"
    path.write_bytes(b"content")
    with open(path, "r+b", buffering=0) as file:
        flag(change, path)
        number = file.fileno()
        return [
            outcome(lambda: os.pwrite(number, b"X", 0)),
            outcome(lambda: os.pwrite(number, b"X", 100)),
            outcome(lambda: os.ftruncate(number, 3)),
            outcome(lambda: os.fchmod(number, 0o600)),
            outcome(lambda: os.posix_fallocate(number, 0, 200)),
            outcome(lambda: os.close(os.open(path, os.O_RDWR))),
            outcome(lambda: os.close(os.open(path, os.O_WRONLY | os.O_APPEND))),
            outcome(lambda: os.close(os.open(path, os.O_RDONLY))),
        ]


@pytest.mark.promise("flags-protect")
@pytest.mark.parametrize("change", ["+i", "+a"])
def test_files_that_are_open_are_protected_as_on_a_local_disk(unprotected: Path, model: Path, change: str) -> None:
    assert outcomes_with_open_files(unprotected, change) == outcomes_with_open_files(model, change)


@pytest.mark.promise("flags-protect")
def test_flags_are_kept_and_inherited_and_unknown_ones_refused(unprotected: Path, mount: TemporaryMount) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can protect files")
    (unprotected / "d").mkdir()
    (unprotected / "f").touch()
    assert (flag("+Ad", unprotected / "d"), flag("+i", unprotected / "f")) == (0, 0)
    (unprotected / "d" / "new").touch()
    for unknown in ("+S", "+c", "+C", "+D"):
        assert flag(unknown, unprotected / "d") != 0, unknown
    mount.again("-o", "dev,suid", keep_state=False)
    assert [flags_of(unprotected / name).replace("-", "") for name in ("d", "d/new", "f")] == ["dA", "dA", "i"]
    with pytest.raises(PermissionError):
        (unprotected / "f").unlink()


@pytest.mark.promise("flags-protect")
def test_users_cannot_protect_files_nor_take_the_flag_away(unprotected: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can act as other users")
    (unprotected / "f").touch()
    os.chown(unprotected / "f", 1000, 1000)

    def as_user(change: str) -> int:
        command = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "chattr", change, "f"]
        return subprocess.run(command, cwd=unprotected, capture_output=True, check=False).returncode

    assert (as_user("+i"), flags_of(unprotected / "f")) == (1, "")
    assert as_user("+d") == 0
    flag("+i", unprotected / "f")
    assert (as_user("-i"), flags_of(unprotected / "f").replace("-", "")) == (1, "id")
