# SPDX-License-Identifier: GPL-3.0-or-later
"""The shell blocks of a page, and a sandbox in which they run.

A page shows commands in blocks of the kind ``console``::

    .. code-block:: console

        $ cas3fs stats /mnt/volume
        files        ...

The lines after a command are its output; three dots stand for anything. A command without output may print anything,
but has to succeed. One with a line of output that begins with ``cas3fs:`` may fail. All blocks of a page run in their
order in one shell. What only the test needs, such as the files that a page mentions, is done in comments of the page::

    .. unseen:

        $ mkdir -p ~/Documents

Paths below /mnt and /srv, and the home directory, lie in the sandbox.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^( *)\.\. (?:code-block:: console|unseen:)\n\n((?:\1 +.*\n|\n)+)", re.MULTILINE)
PLACES = ("/mnt", "/srv")


class Command(NamedTuple):
    """A command of a page, and what the page shows as its output."""

    words: str
    shown: tuple[str, ...]

    @property
    def may_fail(self) -> bool:
        return any(line.startswith("cas3fs:") for line in self.shown)


def commands_of(page: str) -> Iterator[Command]:
    """The commands of all blocks of the text of a page."""
    for block in BLOCK.finditer(page):
        yield from _commands_in(textwrap.dedent(block[2]))


def _commands_in(block: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block.strip("\n"), flags=re.MULTILINE)[1:]:
        words, *shown = re.fullmatch(r"((?:.*\\\n)*.*)\n?((?:.*\n?)*)", part).groups()  # type: ignore[union-attr]
        yield Command(words, tuple(line for line in shown[0].splitlines() if line.strip()))


def inside(text: str, sandbox: Path) -> str:
    """`text` with the places of the pages moved into the sandbox."""
    return re.sub(r"(?<![\w.])(?=(?:{})\b)".format("|".join(PLACES)), str(sandbox), text)


def script_of(commands: list[Command], sandbox: Path) -> str:
    """One shell script that runs the commands, and marks where the output of each begins and ends."""
    lines = ["exec 2>&1", f"cd {sandbox}/home"]
    for number, command in enumerate(commands):
        lines += [f"echo '@@ {number}'", inside(command.words, sandbox), 'status=$?; echo "@@ = $status"']
        if not command.may_fail:
            lines.append('[ "$status" = 0 ] || exit 9')
    return "\n".join(lines) + "\n"


def results_of(output: str) -> Mapping[int, tuple[str, int]]:
    """What each command printed, and its exit status, by its number."""
    found = re.findall(r"^@@ (\d+)\n(.*?)^@@ = (\d+)$", output, re.MULTILINE | re.DOTALL)
    return {int(number): (text, int(status)) for number, text, status in found}


def is_like(shown: tuple[str, ...], printed: str) -> bool:
    """Whether what was printed is what the page shows, three dots standing for anything."""
    pattern = r"\s+".join(".*?".join(map(re.escape, line.split("..."))) for line in map(_squeezed, shown))
    return re.fullmatch(pattern.replace(r"\ ", r"\s+"), printed.strip(), re.DOTALL) is not None


def _squeezed(line: str) -> str:
    return " ".join(line.split())
