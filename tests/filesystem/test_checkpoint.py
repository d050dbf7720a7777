# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints: what the copy of the index shows is a state that the file system really had."""

import os
import random
import threading
from pathlib import Path

import pytest

from tests.filesystem.gated import Gated
from tests.filesystem.machine import EAGER, MIB, ROOT, Machine
from tests.filesystem.usage import (
    before_the_instant,
    content,
    make_file,
    replace_by_rename,
    rewrite,
    shown,
    take_checkpoint,
)


def test_a_checkpoint_holds_what_was_written_before(machine: Machine, tmp_path: Path) -> None:
    fs = machine.mount()
    data = random.Random(1).randbytes(MIB)
    make_file(fs, 1, b"f", data)
    take_checkpoint(fs, tmp_path / "copy")
    rewrite(fs, b"f", 0, b"later")
    assert shown(machine, tmp_path / "copy", b"f") == data


@pytest.mark.promise("a-file-in-parts-is-always-a-state-it-had")
@pytest.mark.parametrize("length", [10, 300_000])
def test_a_file_renamed_over_another_just_before_the_instant_is_shown_whole(
    machine: Machine, tmp_path: Path, length: int
) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f", b"old" * length)
    before_the_instant(fs, lambda: replace_by_rename(fs, b"f", b"new" * length))
    take_checkpoint(fs, tmp_path / "copy")
    assert shown(machine, tmp_path / "copy", b"f") == b"new" * length
    assert fs.metrics.snapshot()["checkpoint.pinned_files"] == 1


def test_an_older_file_renamed_over_another_is_shown_with_its_last_change(machine: Machine, tmp_path: Path) -> None:
    fs = machine.mount()
    data = bytearray(random.Random(2).randbytes(200_000))
    make_file(fs, 1, b"f", b"old")
    make_file(fs, 1, b"g", bytes(data))

    def change_and_rename() -> None:
        rewrite(fs, b"g", 70_000, b"changed")
        fs.rename(1, b"g", 1, b"f")

    before_the_instant(fs, change_and_rename)
    take_checkpoint(fs, tmp_path / "copy")
    data[70_000:70_007] = b"changed"
    assert shown(machine, tmp_path / "copy", b"f") == bytes(data)


def test_a_file_that_is_being_rewritten_is_shown_as_it_was(machine: Machine, tmp_path: Path) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f", b"old" * 1000)
    fs.store_all()
    handle = fs.open(fs.lookup(1, b"f").number, os.O_WRONLY | os.O_TRUNC, ROOT)
    fs.write(handle, 0, b"half")
    take_checkpoint(fs, tmp_path / "settled", settled=True)
    take_checkpoint(fs, tmp_path / "everything")
    assert shown(machine, tmp_path / "settled", b"f") == b"old" * 1000
    assert shown(machine, tmp_path / "everything", b"f") == b"half"
    fs.release(handle)


@pytest.mark.promise("a-snapshot-shows-replaced-files-whole")
def test_files_replaced_all_the_time_are_shown_old_or_new_in_every_checkpoint(machine: Machine, tmp_path: Path) -> None:
    fs = machine.mount(EAGER)
    contents = {bytes([65 + n]) * (1000 + 40_000 * (n % 3)) for n in range(26)}
    make_file(fs, 1, b"f", min(contents))
    stop = threading.Event()

    def replace() -> None:
        chosen = random.Random(3)
        while not stop.is_set():
            replace_by_rename(fs, b"f", chosen.choice(sorted(contents)))

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for number in range(8):
            take_checkpoint(fs, tmp_path / str(number), settled=True)
    finally:
        stop.set()
        thread.join()
    for number in range(8):
        assert shown(machine, tmp_path / str(number), b"f") in contents


def test_an_image_is_the_index_itself_unless_a_reader_of_an_older_state_prevents_it(
    machine: Machine, tmp_path: Path
) -> None:
    fs = machine.mount()
    make_file(fs, 1, b"f", b"one")
    with fs.checkpoint(tmp_path / "copy"):
        assert not (tmp_path / "copy").exists()
    with fs.read_index() as reader:
        reader.pin()
        make_file(fs, 1, b"g", b"two")
        with fs.checkpoint(tmp_path / "copy"):
            assert (tmp_path / "copy").exists()
            assert shown(machine, tmp_path / "copy", b"g") == b"two"
        assert not (tmp_path / "copy").exists()
    assert fs.metrics.snapshot()["checkpoint.in_place"] == 1
    assert fs.metrics.snapshot()["checkpoint.taken"] == 2


def test_a_replaced_file_leaves_the_index_as_it_is(machine: Machine, tmp_path: Path) -> None:
    """Its content is entered in a copy, and the next image is the index itself again."""
    fs = machine.mount()
    make_file(fs, 1, b"f", b"old")
    before_the_instant(fs, lambda: replace_by_rename(fs, b"f", b"new"))
    with fs.checkpoint(tmp_path / "copy"):
        assert (tmp_path / "copy").exists()
    assert content(fs, b"f") == b"new"
    del fs.commits.commit_and  # type: ignore[method-assign]
    with fs.checkpoint(tmp_path / "copy"):
        assert not (tmp_path / "copy").exists()


def test_operations_go_on_while_a_checkpoint_stores(machine: Machine, tmp_path: Path) -> None:
    gated = Gated(machine)
    gated.close_gate()
    make_file(gated.fs, 1, b"f", b"data" * 1000)
    thread = threading.Thread(
        target=take_checkpoint,
        args=(
            gated.fs,
            tmp_path / "copy",
        ),
    )
    thread.start()
    assert gated.store.waiting.acquire(timeout=30)
    make_file(gated.fs, 1, b"g", b"meanwhile")
    assert content(gated.fs, b"g") == b"meanwhile"
    gated.open_gate(thread)
    assert shown(machine, tmp_path / "copy", b"f") == b"data" * 1000
