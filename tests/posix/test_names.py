# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and directories: lengths, links, renames, listings."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .calls import EXCHANGE, NOREPLACE, WHITEOUT, DirectoryStream, renameat2

pytestmark = pytest.mark.frontend("kernel", "llfuse")


def refused(number: int, action: Callable[..., object], *args: object) -> None:
    with pytest.raises(OSError) as caught:
        action(*args)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


@pytest.mark.promise("names-and-links-work")
def test_names_have_at_most_255_bytes(folder: Path) -> None:
    longest, too_long = folder / ("\u00e9" * 127 + "x"), folder / ("n" * 256)
    longest.write_text("x")
    (folder / "f").write_text("x")
    assert os.listdir(os.fsencode(folder)).count(os.fsencode(longest.name)) == 1
    refused(errno.ENAMETOOLONG, too_long.write_text, "x")
    refused(errno.ENAMETOOLONG, too_long.mkdir)
    refused(errno.ENAMETOOLONG, too_long.symlink_to, "x")
    refused(errno.ENAMETOOLONG, os.mkfifo, too_long)
    refused(errno.ENAMETOOLONG, os.stat, too_long)
    refused(errno.ENAMETOOLONG, os.unlink, too_long)
    refused(errno.ENAMETOOLONG, os.rename, folder / "f", too_long)
    refused(errno.ENAMETOOLONG, os.link, folder / "f", too_long)
    assert os.statvfs(folder).f_namemax == 255


@pytest.mark.promise("names-and-links-work")
def test_trees_can_be_deeper_than_path_max(folder: Path) -> None:
    name = "d" * 250
    at = os.open(folder, os.O_RDONLY)
    for _ in range(40):  # 10,000 bytes
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    assert os.listdir(at) == ["f"]
    os.close(at)
    refused(errno.ENAMETOOLONG, os.stat, folder.joinpath(*[name] * 40))
    subprocess.run(["rm", "-r", folder / name], check=True)
    assert os.listdir(folder) == []


@pytest.mark.promise("names-and-links-work")
def test_dangling_and_circular_symbolic_links(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    refused(errno.ELOOP, os.stat, folder / "a")
    refused(errno.ELOOP, os.open, folder / "a", os.O_RDONLY | os.O_NOFOLLOW)
    (folder / "c").symlink_to("none")
    refused(errno.ENOENT, os.stat, folder / "c")
    assert os.readlink(folder / "c") == "none"
    (folder / "c").write_text("x")  # creates the target of the link
    assert (folder / "none").read_text() == "x"


@pytest.mark.promise("names-and-links-work")
def test_symbolic_links_have_at_most_4095_bytes(folder: Path) -> None:
    (folder / "l").symlink_to("x" * 4095)
    assert os.readlink(folder / "l") == "x" * 4095
    assert (folder / "l").lstat().st_size == 4095
    refused(errno.ENAMETOOLONG, (folder / "m").symlink_to, "x" * 4096)


@pytest.mark.promise("names-and-links-work")
def test_nlink_of_a_directory_counts_subdirectories(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "f").write_text("x")
    (folder / "c").mkdir()
    assert [(folder / name).stat().st_nlink for name in (".", "a", "c")] == [4, 3, 2]
    (folder / "a" / "b").rename(folder / "c" / "b")
    assert [(folder / name).stat().st_nlink for name in (".", "a", "c")] == [4, 2, 3]
    (folder / "a" / "f").unlink()
    (folder / "c" / "b").rename(folder / "a")
    assert [(folder / name).stat().st_nlink for name in (".", "a", "c")] == [4, 2, 2]


@pytest.mark.promise("renaming-is-checked")
def test_rename_refuses_invalid_targets(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "f").write_text("x")
    refused(errno.EINVAL, os.rename, folder / "a", folder / "a" / "b" / "c")
    refused(errno.ENOTEMPTY, os.rename, folder / "a" / "b", folder / "a")
    refused(errno.ENOTDIR, os.rename, folder / "a", folder / "f")
    refused(errno.EISDIR, os.rename, folder / "f", folder / "a" / "b")
    refused(errno.ENOTDIR, os.rename, folder / "f", folder / "f" / "g")
    refused(errno.EXDEV, os.rename, folder / "f", folder.parent.parent / "elsewhere")


@pytest.mark.frontend("kernel", lacks="flags of renames")
@pytest.mark.promise("renames-have-flags")
def test_a_rename_that_may_not_replace_replaces_nothing(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).write_text(name)
    refused(errno.EEXIST, renameat2, folder / "a", folder / "b", NOREPLACE)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "a", "b": "b"}
    renameat2(folder / "a", folder / "new", NOREPLACE)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"new": "a", "b": "b"}


@pytest.mark.frontend("kernel", lacks="flags of renames")
@pytest.mark.promise("renames-have-flags")
def test_two_names_of_any_types_are_exchanged(folder: Path) -> None:
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    (folder / "one" / "it" / "below").mkdir(parents=True)
    (folder / "two" / "it").write_text("file")
    directory, file = ((folder / name / "it").stat().st_ino for name in ("one", "two"))
    at = os.open(folder / "one" / "it", os.O_RDONLY)
    renameat2(folder / "one" / "it", folder / "two" / "it", EXCHANGE)
    assert [(folder / name / "it").stat().st_ino for name in ("one", "two")] == [file, directory]
    assert [(folder / name).stat().st_nlink for name in ("one", "two")] == [2, 3]
    assert (folder / "one" / "it").read_text() == "file"
    assert os.stat("..", dir_fd=at).st_ino == (folder / "two").stat().st_ino
    os.close(at)
    (folder / "link").symlink_to("one")
    renameat2(folder / "link", folder / "two" / "it", EXCHANGE)
    assert os.readlink(folder / "two" / "it") == "one"
    assert os.listdir(folder / "link") == ["below"]


@pytest.mark.frontend("kernel", lacks="flags of renames")
@pytest.mark.promise("renames-have-flags")
def test_an_exchange_needs_two_names_and_makes_no_loop(folder: Path) -> None:
    (folder / "above" / "below").mkdir(parents=True)
    refused(errno.ENOENT, renameat2, folder / "above", folder / "none", EXCHANGE)
    refused(errno.EINVAL, renameat2, folder / "above", folder / "above" / "below", EXCHANGE)
    refused(errno.EINVAL, renameat2, folder / "above" / "below", folder / "above", EXCHANGE)
    refused(errno.EINVAL, renameat2, folder / "above", folder / "other", EXCHANGE | NOREPLACE)
    refused(errno.EINVAL, renameat2, folder / "above", folder / "other", 8)
    assert os.listdir(folder) == ["above"]


@pytest.mark.frontend("kernel", lacks="flags of renames")
@pytest.mark.promise("renames-have-flags")
def test_a_rename_can_leave_a_whiteout(folder: Path) -> None:
    (folder / "f").write_text("x")
    (folder / "d").mkdir()
    renameat2(folder / "f", folder / "d" / "g", WHITEOUT)
    left = (folder / "f").lstat()
    assert (stat.S_ISCHR(left.st_mode), left.st_rdev, left.st_nlink) == (True, 0, 1)
    assert (folder / "d" / "g").read_text() == "x"
    refused(errno.EEXIST, renameat2, folder / "d", folder / "f", WHITEOUT | NOREPLACE)
    renameat2(folder / "d", folder / "e", WHITEOUT | NOREPLACE)
    assert sorted(os.listdir(folder)) == ["d", "e", "f"]
    assert folder.stat().st_nlink == 3


@pytest.mark.frontend("kernel", lacks="flags of renames")
@pytest.mark.promise("renames-have-flags")
def test_mv_no_clobber_keeps_the_target(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).write_text(name)
    subprocess.run(["mv", "-n", folder / "a", folder / "b"], check=False, capture_output=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "a", "b": "b"}
    subprocess.run(["mv", "-n", folder / "a", folder / "c"], check=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"c": "a", "b": "b"}


@pytest.mark.promise("listings-survive-changes")
def test_a_listing_has_every_lasting_name_exactly_once(folder: Path) -> None:
    stays = {f"stay{number:04}" for number in range(1500)}
    for name in stays:
        (folder / name).touch()
        (folder / f"go{name}").touch()
    seen = []
    with os.scandir(folder) as listing:
        for count, entry in enumerate(listing):
            seen.append(entry.name)
            if count < 1000:
                (folder / f"come{count:04}").touch()
            if entry.name in stays:
                (folder / f"go{entry.name}").unlink()
                (folder / entry.name).chmod(0o600)
            if count == 700:
                (folder / "come0000").rename(folder / min(stays - set(seen)))  # over a name that is not listed yet
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)


@pytest.mark.promise("listings-survive-changes")
def test_a_listing_goes_on_from_every_place_that_was_told(folder: Path) -> None:
    for number in range(3000):
        (folder / f"{number:04}").touch()
    with DirectoryStream(folder) as listing:
        places, names = [listing.tell()], []
        while (name := listing.read()) is not None:
            names.append(name)
            places.append(listing.tell())
        assert sorted(names) == sorted([".", "..", *(f"{number:04}" for number in range(3000))])
        for begin in (2999, 1, 1500, 0, 3001, 40, 2):
            listing.seek(places[begin])
            count = 0
            while (name := listing.read()) is not None:
                assert name == names[begin + count]
                count += 1
            assert begin + count == len(names)
        for begin in range(0, 3000, 271):
            listing.seek(places[begin])
            (folder / f"between{begin}").touch()
            assert listing.read() == names[begin]


@pytest.mark.promise("open-files-outlive-their-names")
def test_a_removed_open_directory_is_empty_and_closed_to_changes(folder: Path) -> None:
    (folder / "d").mkdir()
    at = os.open(folder / "d", os.O_RDONLY)
    (folder / "d").rmdir()
    with pytest.raises(FileNotFoundError):
        os.mkdir("x", dir_fd=at)
    assert os.listdir(at) == []
    assert os.fstat(at).st_nlink == 0
    os.close(at)


@pytest.mark.promise("listings-survive-changes")
def test_rm_r_removes_a_tree(folder: Path) -> None:
    for number in range(30):
        (folder / "t" / str(number)).mkdir(parents=True)
        for name in range(30):
            (folder / "t" / str(number) / str(name)).touch()
    subprocess.run(["rm", "-r", folder / "t"], check=True)
    assert os.listdir(folder) == []
