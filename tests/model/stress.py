# SPDX-License-Identifier: GPL-3.0-or-later
"""Random operations on a tree that other processes change at the same time.

There are only a few names, so the processes affect each other all the time. An operation may fail only with errors that
operations of other processes explain.

``python -m tests.model.stress FOLDER SEED COUNT`` prints how many operations of each kind succeeded.
"""

import errno
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests import frontends
from tests.posix.calls import EXCHANGE, NOREPLACE, renameat2

NAMES = [f"n{number}" for number in range(8)]
EXPLAINED = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,  # a directory moved into itself; readlink of another type
    errno.ELOOP,
    errno.ENODATA,
    errno.EPERM,  # a hard link to a directory; an attribute of a link
    errno.ENXIO,  # a fifo without a reader
    errno.ESPIPE,  # an offset in a fifo
    errno.EAGAIN,  # a fifo that is full or empty
    errno.EPIPE,  # a fifo whose reader has gone
    *((errno.EOPNOTSUPP,) if frontends.chosen() == "llfuse" else ()),  # O_TMPFILE
}


class Stress:
    """The operations of one process."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.chance = random.Random(seed)
        self.letter = bytes([65 + seed % 26])
        self.done: Counter[str] = Counter()
        # no process changes these names, and they do not fit into one reply to readdir
        self.fixed = {f"fixed-{self.letter.decode()}-{number:02}-{'x' * 50}" for number in range(20)}

    def run(self, count: int) -> Counter[str]:
        """Do `count` operations; returns how many of each kind succeeded.

        Raises:
            OSError: an unexplained error.
        """
        actions: list[Callable[[], object]] = [
            self.create, self.create, self.write, self.write, self.truncate, self.read, self.mkdir, self.mkdir,
            self.symlink, self.link, self.mkfifo, self.unlink, self.rmdir, self.rename, self.rename, self.chmod,
            self.exchange, self.move_unless_taken, self.named_later,
            self.chown, self.utime, self.setxattr, self.removexattr, self.listing, self.unlinked_while_open,
        ]  # fmt: skip
        for name in self.fixed:
            (self.root / name).touch()
        for _ in range(count):
            action = self.chance.choice(actions)
            try:
                action()
            except OSError as error:
                if error.errno not in EXPLAINED:
                    raise
            else:
                self.done[action.__name__] += 1
        return self.done

    def path(self) -> Path:
        return self.root.joinpath(*self.chance.choices(NAMES, k=self.chance.choice((1, 2, 2, 2, 3))))

    def open(self, flags: int) -> int:
        return os.open(self.path(), flags | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)

    def with_file(self, flags: int, action: Callable[[int], object]) -> None:
        file = self.open(flags)
        try:
            action(file)
        finally:
            os.close(file)

    def create(self) -> None:
        self.with_file(os.O_CREAT | os.O_RDWR, lambda file: os.write(file, self.letter * self.length()))

    def length(self) -> int:
        return self.chance.choice((1, 100, 5000, 70_000))

    def write(self) -> None:
        offset = self.chance.choice((0, 1, 4096, 100_000))
        self.with_file(os.O_WRONLY, lambda file: os.pwrite(file, self.letter * self.length(), offset))

    def read(self) -> None:
        def check(file: int) -> None:
            assert set(os.read(file, 200_000)) <= {0, *range(65, 91)}

        self.with_file(os.O_RDONLY, check)

    def truncate(self) -> None:
        os.truncate(self.path(), self.chance.choice((0, 10, 4096, 50_000)))

    def mkdir(self) -> None:
        self.path().mkdir()

    def symlink(self) -> None:
        self.path().symlink_to(self.chance.choice(NAMES))

    def link(self) -> None:
        os.link(self.path(), self.path(), follow_symlinks=False)

    def mkfifo(self) -> None:
        os.mkfifo(self.path())

    def unlink(self) -> None:
        self.path().unlink()

    def rmdir(self) -> None:
        self.path().rmdir()

    def rename(self) -> None:
        self.path().rename(self.path())

    def exchange(self) -> None:
        renameat2(self.path(), self.path(), EXCHANGE)

    def move_unless_taken(self) -> None:
        renameat2(self.path(), self.path(), NOREPLACE)

    def named_later(self) -> None:
        folder = self.path().parent
        file = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            os.write(file, self.letter * self.length())
            os.link(
                f"/proc/self/fd/{file}", self.path(), src_dir_fd=file
            )  # an absolute path: makes Python follow the link
        finally:
            os.close(file)

    def chmod(self) -> None:
        self.path().chmod(self.chance.choice((0o600, 0o755, 0o4711)))

    def chown(self) -> None:
        owner = self.chance.randrange(3) if os.geteuid() == 0 else -1
        os.chown(self.path(), owner, -1, follow_symlinks=False)

    def utime(self) -> None:
        os.utime(self.path(), ns=(self.chance.randrange(10**18), 5), follow_symlinks=False)

    def setxattr(self) -> None:
        os.setxattr(self.path(), "user.a", self.letter * self.chance.randrange(300), follow_symlinks=False)

    def removexattr(self) -> None:
        os.removexattr(self.path(), "user.a", follow_symlinks=False)

    def listing(self) -> None:
        os.listdir(self.path().parent)
        # a name that is removed and created meanwhile may appear twice or not at all; a lasting name, once
        names = Counter(os.listdir(self.root))
        assert {name: names[name] for name in self.fixed} == dict.fromkeys(self.fixed, 1)

    def unlinked_while_open(self) -> None:
        path = self.path().with_name(f"own-{self.letter.decode()}")  # other processes could open or link a common name
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            path.unlink()
            os.pwrite(file, self.letter * 5000, 0)
            assert os.pread(file, 5000, 0) == self.letter * 5000
        finally:
            os.close(file)


if __name__ == "__main__":
    folder, begin, operations = sys.argv[1:]
    print(json.dumps(Stress(Path(folder), int(begin)).run(int(operations))))
