# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree of errors, and the errno of each."""

import errno
import inspect
import re

import pytest

from cas3fs import errors
from cas3fs.errors import Cas3fsError, FileSystemError, errno_of

CLASSES = {
    cls.__name__: cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__
}


def drawn_parents() -> dict[str, str]:
    """Each class in the tree of the module's docstring, with its base class."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        found = re.match(r"^(\s+(?:│\s*|\s)*(?:├── |└── )?)([A-Z]\w+)", line)
        if found is None:
            continue
        depth, name = len(found[1]), found[2]
        while above and above[-1][0] >= depth:
            above.pop()
        parents[name] = above[-1][1] if above else "Exception"
        above.append((depth, name))
    return parents


def test_the_tree_is_drawn_as_it_is() -> None:
    assert drawn_parents() == {name: cls.__base__.__name__ for name, cls in CLASSES.items()}


@pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)
def test_every_error_becomes_a_known_errno(cls: type[Cas3fsError]) -> None:
    error = FileSystemError(errno.ENOENT) if cls is FileSystemError else cls("what happened")
    assert errno_of(error) in errno.errorcode


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileSystemError(errno.ENOTEMPTY), errno.ENOTEMPTY),
        (errors.IndexFull("full"), errno.ENOSPC),
        (errors.StoreFull("full"), errno.ENOSPC),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "full"), errno.ENOSPC),
        (errors.Fenced("taken over"), errno.EROFS),
        (errors.BlockMissing("gone"), errno.EIO),
        (ValueError("a bug"), errno.EIO),
    ],
)
def test_errors_have_the_expected_errno(error: Exception, expected: int) -> None:
    assert errno_of(error) == expected


def test_a_file_system_error_without_a_message_has_that_of_its_errno() -> None:
    assert str(FileSystemError(errno.ENOENT)) == "No such file or directory"
    assert str(FileSystemError(errno.ENOENT, "no such thing")) == "no such thing"


def test_a_failed_deletion_names_the_keys() -> None:
    assert errors.DeleteFailed("refused", ("a", "b")).keys == ("a", "b")
