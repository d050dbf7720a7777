# SPDX-License-Identifier: GPL-3.0-or-later
"""``./dev demo``: the main job on a volume in a directory, shown step by step, in under two minutes.

Everything is in one temporary folder, and every process of the volume has that folder's path in its environment, so
that no mount, process or file is left, whatever happens.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import trees
from benchmarks.trees import TreeItem

MIB = 1 << 20
MAX_FILES = 20_000
MAX_MIB = 400
SHOWN_DIFFERENCES = 20
END_GRACE_S = 5.0


class DemoFailed(Exception):
    """The demonstration cannot go on; the text is for the user."""


class DemoVolume:
    """A volume in `folder`, its mount, and its commands, which are shown as they are run."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.root = folder / "mnt"
        self.store = folder / "store"
        self.url = f"file://{self.store}"
        self._console = console
        self._local = {"CAS3FS_STATE_DIR": str(folder / "state"), "CAS3FS_CACHE_DIR": str(folder / "cache")}

    def run(self, *words: str, show_output: bool = False) -> None:
        """Run ``cas3fs`` with `words`.

        Raises:
            DemoFailed: the command failed.
        """
        self._console.print(f"[bold]$ cas3fs {escape(' '.join(words))}[/]", soft_wrap=True)
        command = [sys.executable, "-m", "cas3fs", *words]
        environment = {**os.environ, **self._local}
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:  # a pipe would outlive the command
            status = subprocess.run(command, env=environment, stdout=output, stderr=errors, check=False).returncode
            output.seek(0)
            errors.seek(0)
            if status:
                raise DemoFailed(errors.read().decode(errors="replace").strip() or f"exit status {status}")
            if show_output:
                self._console.print(output.read().decode(errors="replace").rstrip(), markup=False, highlight=False)

    def forget_local(self) -> None:
        """Remove everything that this machine keeps of the volume beside the store."""
        for folder in self._local.values():
            shutil.rmtree(folder, ignore_errors=True)

    def stored_bytes(self) -> int:
        """The size of everything in the store."""
        return sum(path.stat().st_size for path in self.store.rglob("*") if path.is_file())

    def tear_down(self) -> None:
        """Unmount by force, end the volume's processes, and remove the folder, in any state."""
        if os.path.ismount(self.root):
            subprocess.run(["fusermount3", "-u", "-z", str(self.root)], check=False, capture_output=True)
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + END_GRACE_S
        while self._processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _processes(self) -> list[int]:
        """The processes that were started with this volume's folders in their environment."""
        mark = f"CAS3FS_STATE_DIR={self._local['CAS3FS_STATE_DIR']}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found


def show(volume: DemoVolume, items: list[TreeItem], console: Console) -> None:
    """Run the demonstration.

    Raises:
        DemoFailed: a command failed, or a copy differs.
    """
    plain_bytes = sum(item.data_bytes for item in items)
    volume.store.mkdir()
    volume.root.mkdir()
    volume.run("mkfs", "--no-encrypt", volume.url)
    volume.run("mount", volume.url, str(volume.root))
    grown = [_copy_and_store(volume, items, name, console) for name in ("first", "second")]
    volume.run("stats", volume.url, show_output=True)
    volume.run("umount", str(volume.root))
    console.print("Now the same on a new machine: the local index and all caches are removed.")
    volume.forget_local()
    volume.run("mount", volume.url, str(volume.root))
    for name in ("first", "second"):
        _compare(volume, items, name, console)
    volume.run("umount", str(volume.root))
    console.print(
        f"[green]Every byte, mode, time and link is identical.[/] {2 * plain_bytes / MIB:,.1f} MiB were copied; the "
        f"first copy added {grown[0] / MIB:,.1f} MiB to the store, the second {grown[1] / MIB:,.2f} MiB."
    )


def _copy_and_store(volume: DemoVolume, items: list[TreeItem], name: str, console: Console) -> int:
    """Copy the tree to `name`; returns by how many bytes the store has grown."""
    before = volume.stored_bytes()
    with _progress(f"copying, {name} time", items, console) as advance:
        trees.copy(items, volume.root / name, advance)
    volume.run("flush", volume.url)
    return volume.stored_bytes() - before


def _compare(volume: DemoVolume, items: list[TreeItem], name: str, console: Console) -> None:
    with _progress(f"comparing the {name} copy", items, console) as advance:
        differences = trees.compare(items, volume.root / name, advance)
    if differences:
        raise DemoFailed("\n".join([f"{len(differences)} differences:", *differences[:SHOWN_DIFFERENCES]]))


@contextlib.contextmanager
def _progress(title: str, items: list[TreeItem], console: Console) -> Iterator[trees.Advance]:
    """A progress bar for `items`; yields a function that advances it by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=len(items))
        yield lambda item: progress.advance(task)


def source_roots() -> list[Path]:
    """Folders with files on any Debian or Ubuntu, that of the virtual environment last."""
    return [*sorted(Path("/usr/lib").glob("python3*")), Path("/usr/share"), Path("/usr/include"), Path(sys.prefix)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns the exit status."""
    parser = argparse.ArgumentParser(prog="./dev demo", description="Show the main job of cas3fs.")
    parser.add_argument("--files", type=int, default=MAX_FILES, help="copy at most N files")
    parser.add_argument("--mib", type=int, default=MAX_MIB, help="copy at most N MiB")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        console.print("demo: cannot mount: /dev/fuse is missing or not accessible to this user", markup=False)
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    volume = DemoVolume(Path(tempfile.mkdtemp(prefix="cas3fs-demo-")), console)
    started = time.monotonic()
    try:
        items = trees.choose(source_roots(), options.files, options.mib * MIB)
        size_bytes = sum(item.data_bytes for item in items)
        console.print(f"A tree of this machine: {len(items):,} files, folders and links, {size_bytes / MIB:,.1f} MiB.")
        show(volume, items, console)
    except DemoFailed as failure:
        console.print(f"demo: {failure}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("demo: interrupted; cleaning up")
        return 130
    finally:
        volume.tear_down()
    console.print(f"{time.monotonic() - started:.0f} seconds; everything has been removed.")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
