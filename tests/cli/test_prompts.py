# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked at a terminal, and that nothing of the answers is shown there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .terminal import Terminal

SECRET, OTHER = "correct horse", "another horse"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CAS3FS_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "volume").mkdir()
    return (tmp_path / "volume").as_uri()


def make(url: str, passphrase: str = SECRET) -> None:
    cas3fs("mkfs", "--encrypt", url, CAS3FS_PASSPHRASE=passphrase)


def cas3fs(*words: str, **environment: str) -> str:
    """What a command prints that nobody can be asked by."""
    done = subprocess.run(
        [sys.executable, "-m", "cas3fs", *words],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.promise("a-secret-leaves-no-trace")
def test_mkfs_asks_whether_to_encrypt_and_twice_for_the_passphrase(url: str) -> None:
    with Terminal("mkfs", url) as terminal:
        terminal.answer("Encrypt the volume? [Y/n]: ", "")
        terminal.answer(f"new passphrase of {url}: ", SECRET)
        terminal.answer("once more: ", OTHER)
        terminal.expect("the two differ")
        terminal.answer(f"new passphrase of {url}: ", SECRET)
        terminal.answer("once more: ", SECRET)
        terminal.expect("fingerprint")
        assert terminal.wait() == 0
        assert SECRET not in terminal.shown
        assert OTHER not in terminal.shown
    assert len(json.loads(cas3fs("key", "list", "--json", url, CAS3FS_PASSPHRASE=SECRET))) == 1


def test_mkfs_makes_a_plain_volume_for_who_wants_one(url: str) -> None:
    with Terminal("mkfs", url) as terminal:
        terminal.answer("Encrypt the volume? [Y/n]: ", "n")
        assert terminal.wait() == 0
        assert "fingerprint" not in terminal.shown
    cas3fs("epochs", url)


def test_mkfs_guesses_nothing_where_nobody_can_be_asked(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cas3fs", "mkfs", url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--encrypt or --no-encrypt" in done.stderr


@pytest.mark.promise("a-secret-leaves-no-trace")
def test_a_passphrase_is_asked_for_once(url: str) -> None:
    make(url)
    with Terminal("epochs", url) as terminal:
        terminal.answer(f"passphrase of {url}: ", SECRET)
        assert terminal.wait() == 0
        assert terminal.shown.count("passphrase of file") == 1
        assert SECRET not in terminal.shown


def test_a_wrong_passphrase_is_one_line(url: str) -> None:
    make(url)
    with Terminal("epochs", url) as terminal:
        terminal.answer(f"passphrase of {url}: ", OTHER)
        assert terminal.wait() == 1
        lines = terminal.shown.splitlines()
    assert lines[1:] == [
        f"cas3fs: the passphrase does not open {url}: it is wrong, or the entry of its key is damaged, or the object "
        "`volume` was replaced"
    ]


@pytest.mark.parametrize("end", ["\x03", "\x04"], ids=["^C", "^D"])
def test_a_question_can_be_left(url: str, end: str) -> None:
    make(url)
    with Terminal("epochs", url) as terminal:
        terminal.expect(f"passphrase of {url}: ")
        terminal.enter(end)
        terminal.expect("cas3fs: interrupted")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.shown


def test_a_change_asks_for_the_old_and_twice_for_the_new(url: str) -> None:
    make(url)
    with Terminal("key", "change", url) as terminal:
        terminal.answer(f": passphrase of {url}: "[2:], SECRET)
        terminal.answer(f"new passphrase of {url}: ", OTHER)
        terminal.answer("once more: ", OTHER)
        assert terminal.wait() == 0
    cas3fs("epochs", url, CAS3FS_PASSPHRASE=OTHER)


def test_a_new_root_asks_for_each_key(url: str, tmp_path: Path) -> None:
    make(url)
    (tmp_path / "file").write_bytes(bytes(32))
    first = {"CAS3FS_PASSPHRASE": SECRET}
    cas3fs("key", "add", "--new-key-file", str(tmp_path / "file"), "--note", "usb stick", url, **first)
    recovery = json.loads(cas3fs("key", "add", "--recovery", "--json", url, **first))["recovery_key"]
    cas3fs("key", "add", "--recovery", "--note", "lost one", url, **first)
    with Terminal("key", "rotate", "--root", url) as terminal:
        terminal.answer(f"passphrase of {url}: ", SECRET)
        terminal.answer("(key-file, usb stick), empty to remove it: ", str(tmp_path / "file"))
        terminal.answer("(recovery), empty to remove it: ", "a wrong one")
        terminal.expect("that does not open this key")
        terminal.answer("(recovery), empty to remove it: ", recovery)
        terminal.answer("(recovery, lost one), empty to remove it: ", "")
        terminal.expect("keys that stay: 3; removed: ")
        assert terminal.wait() == 0
        assert recovery not in terminal.shown
    listed = json.loads(cas3fs("key", "list", "--json", url, CAS3FS_PASSPHRASE=recovery))
    assert [one["note"] for one in listed] == ["made by mkfs", "usb stick", ""]
