# SPDX-License-Identifier: GPL-3.0-or-later
"""The secrets of a mounted volume: asked for by whoever has the terminal, and found nowhere but in memory."""

import base64
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cas3fs.encryption.secret import ExportedRoot
from tests.cli.terminal import Terminal

from .conftest import CliMachine

pytestmark = pytest.mark.encryption("plain")  # each test encrypts a volume by itself, and no key file may open it

SECRET = "correct horse battery staple"


@pytest.fixture
def encrypted(machine: CliMachine) -> CliMachine:
    """A machine with an encrypted volume, whose passphrase a file has."""
    (machine.root / "passphrase").write_text(SECRET)
    machine.environment["CAS3FS_PASSPHRASE_FILE"] = str(machine.root / "passphrase")
    machine.run("mkfs", "--encrypt", machine.url)
    return machine


def at_terminal(machine: CliMachine, *words: str) -> Terminal:
    """A command at a terminal, which has to ask for the passphrase."""
    places = {"CAS3FS_STATE_DIR": str(machine.state), "CAS3FS_CACHE_DIR": str(machine.cache)}
    environment = {name: value for name, value in machine.environment.items() if not name.startswith("CAS3FS_PASS")}
    return Terminal(*words, environment=environment | places)


def pid_of_mount(machine: CliMachine) -> int:
    pid = int(json.loads(next(machine.state.glob("*/mount.json")).read_text())["pid"])
    machine.pids.append(pid)
    return pid


@pytest.mark.promise("a-secret-leaves-no-trace")
def test_a_mount_in_the_background_asks_through_its_parent(encrypted: CliMachine) -> None:
    with at_terminal(encrypted, "mount", encrypted.url, str(encrypted.dir)) as terminal:
        terminal.answer(f"passphrase of {encrypted.url}: ", SECRET)
        assert terminal.wait() == 0
        assert SECRET not in terminal.shown
    pid_of_mount(encrypted)
    (encrypted.dir / "file").write_text("content")
    encrypted.umount()


def test_a_mount_with_a_wrong_passphrase_leaves_nothing(encrypted: CliMachine) -> None:
    with at_terminal(encrypted, "mount", encrypted.url, str(encrypted.dir)) as terminal:
        terminal.answer(f"passphrase of {encrypted.url}: ", "wrong")
        terminal.expect(f"cas3fs: the passphrase does not open {encrypted.url}: it is wrong, or")
        assert terminal.wait() == 1
        assert "Traceback" not in terminal.shown
    assert not os.path.ismount(encrypted.dir)
    assert not list(encrypted.state.glob("*/mount.json"))


def test_a_mount_in_the_foreground_asks_itself(encrypted: CliMachine) -> None:
    with at_terminal(encrypted, "mount", "--foreground", encrypted.url, str(encrypted.dir)) as terminal:
        terminal.answer(f"passphrase of {encrypted.url}: ", SECRET)
        terminal.expect("cas3fs: mounted")
        pid_of_mount(encrypted)
        encrypted.umount()
        assert terminal.wait() == 0


def test_keys_are_changed_while_the_volume_is_mounted(encrypted: CliMachine) -> None:
    encrypted.mount()
    (encrypted.dir / "file").write_text("content")
    (encrypted.root / "new").write_text("another horse")
    for place in (encrypted.url, str(encrypted.dir)):
        encrypted.run("key", "add", "--recovery", place)
        encrypted.run("key", "rotate", place)
    assert len(encrypted.report("key", "list", encrypted.dir)) == 3
    fingerprint = encrypted.report("key", "export", encrypted.dir)["fingerprint"]
    assert encrypted.report("stats", encrypted.dir)["fingerprint"] == fingerprint
    encrypted.run("key", "change", "--new-passphrase-file", encrypted.root / "new", encrypted.dir)
    (encrypted.dir / "later").write_text("more")
    encrypted.umount()
    encrypted.forget_everything()
    assert "does not open" in encrypted.fail("mount", encrypted.url, encrypted.dir)
    encrypted.environment["CAS3FS_PASSPHRASE_FILE"] = str(encrypted.root / "new")
    encrypted.mount()
    assert {path.name: path.read_text() for path in encrypted.dir.iterdir()} == {"file": "content", "later": "more"}
    encrypted.umount()


def test_a_mount_survives_a_new_root(encrypted: CliMachine) -> None:
    encrypted.mount()
    (encrypted.dir / "file").write_text("content")
    encrypted.run("key", "rotate", "--root", encrypted.dir)
    (encrypted.dir / "later").write_text("more")
    encrypted.run("flush", encrypted.dir)
    encrypted.umount()
    encrypted.forget_everything()
    encrypted.mount()
    assert {path.name: path.read_text() for path in encrypted.dir.iterdir()} == {"file": "content", "later": "more"}
    encrypted.umount()


# --- traces


@pytest.fixture
def traced(machine: CliMachine) -> Iterator[tuple[CliMachine, int]]:
    """A mount that logs everything, and has its passphrase from the environment; and the id of its process."""
    machine.environment["CAS3FS_PASSPHRASE"] = SECRET
    machine.run("mkfs", "--encrypt", machine.url)
    pid = machine.mount("-v")
    (machine.dir / "file").write_text("content")
    machine.run("flush", machine.dir)
    yield machine, pid
    machine.umount()


def forms_of(machine: CliMachine) -> list[bytes]:
    """Everything that would open the volume, in the forms in which it could be written."""
    key = machine.report("key", "export", machine.url)["key"]
    root = ExportedRoot.parse(key)
    assert root is not None
    raw = root.reveal()
    return [
        SECRET.encode(),
        SECRET.encode().hex().encode(),
        raw,
        raw.hex().encode(),
        base64.b64encode(raw),
        key.encode(),
    ]


@pytest.mark.promise("a-secret-leaves-no-trace")
def test_no_file_of_the_machine_has_a_secret(traced: tuple[CliMachine, int]) -> None:
    machine, _ = traced
    files = [path for folder in (machine.state, machine.cache) for path in folder.rglob("*") if path.is_file()]
    assert {"mount.log", "mount.json", "place.json", "index.sqlite"} <= {path.name for path in files}
    found = [(path, form) for path in files for form in forms_of(machine) if form in path.read_bytes()]
    assert not found


@pytest.mark.promise("a-secret-leaves-no-trace")
def test_no_command_line_has_a_secret(traced: tuple[CliMachine, int]) -> None:
    machine, pid = traced
    forms = forms_of(machine)
    assert b"mount" in Path(f"/proc/{pid}/cmdline").read_bytes()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            shown = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        assert not [form for form in forms if form in shown]


@pytest.mark.promise("a-secret-leaves-no-trace")
def test_no_answer_of_a_mount_has_a_secret(traced: tuple[CliMachine, int]) -> None:
    machine, _ = traced
    told = json.dumps(machine.report("stats", machine.dir)).encode()
    path = next(machine.state.glob("*/control.sock"))
    for request in ("stats", "snapshot-list", "nonsense"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(json.dumps({"command": request, "request": request, "verb": request}).encode() + b"\n")
            client.shutdown(socket.SHUT_WR)
            while data := client.recv(1 << 16):
                told += data
    assert told
    assert not [form for form in forms_of(machine) if form in told]


@pytest.mark.promise("a-secret-leaves-no-trace")
def test_the_memory_of_a_mount_is_in_no_core_dump(traced: tuple[CliMachine, int]) -> None:
    _, pid = traced
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert limits[limits.index("Max core file size") :].split()[4:6] == ["0", "0"]
