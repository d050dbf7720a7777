# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the secret that opens a volume is read from: in a known order, each way as documented, without traces."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from cas3fs.config import SecretSettings
from cas3fs.encryption.secret import EXPORT_TITLE, ExportedRoot, KeyFile, Passphrase, RecoveryKey
from cas3fs.errors import SecretMissing, UsageError
from cas3fs.volume.secret_source import KmsName, read_new_secret, read_secret

ARN = "arn:aws:kms:eu-central-1:1:key/2"


class Ways:
    """Every way to give a secret, each with another one, in the order in which they count."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.settings = SecretSettings()
        self.environment: dict[str, str] = {}
        self.in_order: dict[str, Callable[[], None]] = {
            "CAS3FS_PASSPHRASE_FILE": self._variable("CAS3FS_PASSPHRASE_FILE", self._file("file of variable")),
            "CAS3FS_KEY_FILE": self._variable("CAS3FS_KEY_FILE", self._file("key file of variable")),
            "CAS3FS_KMS_KEY": self._variable("CAS3FS_KMS_KEY", ARN),
            "CAS3FS_PASSPHRASE_COMMAND": self._variable("CAS3FS_PASSPHRASE_COMMAND", "echo by  'a command'"),
            "CAS3FS_PASSPHRASE": self._variable("CAS3FS_PASSPHRASE", "variable"),
            "terminal": self._ask,
        }

    def _file(self, content: str) -> str:
        path = self._folder / content.replace(" ", "-")
        path.write_text(content + "\n")
        return str(path)

    def _variable(self, name: str, value: str) -> Callable[[], None]:
        return lambda: self.environment.update({name: value})

    def _ask(self) -> None:
        self.settings = attrs.evolve(self.settings, ask=lambda question: f"typed after {question}")

    def read(self) -> str:
        """What is read: the text of a secret, or the name of a key of KMS."""
        found = read_secret(self.settings, "question", self.environment)
        return found.arn if isinstance(found, KmsName) else found.reveal().decode()


READ = {
    "CAS3FS_PASSPHRASE_FILE": "file of variable",
    "CAS3FS_KEY_FILE": "key file of variable\n",
    "CAS3FS_KMS_KEY": ARN,
    "CAS3FS_PASSPHRASE_COMMAND": "by a command",
    "CAS3FS_PASSPHRASE": "variable",
    "terminal": "typed after question",
}


@pytest.fixture
def ways(tmp_path: Path) -> Ways:
    return Ways(tmp_path)


@pytest.mark.parametrize("first", READ)
def test_the_first_way_counts(ways: Ways, first: str) -> None:
    names = list(ways.in_order)
    for name in names[names.index(first) :]:
        ways.in_order[name]()
    assert ways.read() == READ[first]


@pytest.mark.parametrize(
    ("field", "value", "read"),
    [
        ("passphrase_file", "file", "the file of an option"),
        ("key_file", "file", "the file of an option\n"),
        ("kms_key", ARN, ARN),
    ],
)
def test_the_command_line_counts_before_all(ways: Ways, tmp_path: Path, field: str, value: str, read: str) -> None:
    for give in ways.in_order.values():
        give()
    (tmp_path / "file").write_text("the file of an option\n")
    given = value if field == "kms_key" else tmp_path / value
    ways.settings = attrs.evolve(ways.settings, **{field: given})
    assert ways.read() == read


def test_options_for_secrets_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        read_secret(SecretSettings(passphrase_file=tmp_path, kms_key=ARN), "", {})


@pytest.mark.parametrize("name", list(READ)[:-1])
def test_an_empty_variable_counts_as_not_set(ways: Ways, name: str) -> None:
    ways.environment[name] = ""
    ways.in_order["terminal"]()
    assert ways.read() == READ["terminal"]


def test_who_gives_nothing_is_told_the_ways() -> None:
    with pytest.raises(
        SecretMissing, match="--passphrase-file, --key-file or --kms-key, or set CAS3FS_PASSPHRASE_COMM"
    ):
        read_secret(SecretSettings(), "", {})


def test_a_secret_is_read_once(ways: Ways) -> None:
    asked: list[str] = []
    settings = SecretSettings(ask=lambda question: asked.append(question) or "typed")
    assert read_secret(settings, "first", {}) is read_secret(settings, "second", {})
    assert asked == ["first"]


def test_two_volumes_share_no_secret() -> None:
    first, second = (SecretSettings(ask=lambda question, name=name: name) for name in ("first", "second"))
    assert read_secret(first, "", {}).reveal() != read_secret(second, "", {}).reveal()  # type: ignore[union-attr]


# --- files


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_the_end_of_the_line_is_no_part_of_a_passphrase(tmp_path: Path, end: str) -> None:
    (tmp_path / "file").write_bytes(f" two words {end}".encode())
    found = read_secret(SecretSettings(passphrase_file=tmp_path / "file"), "", {})
    assert isinstance(found, Passphrase)
    assert found.reveal() == b" two words "


def test_a_key_file_has_any_bytes(tmp_path: Path) -> None:
    content = bytes(range(255, 223, -1)) + b"\n"
    (tmp_path / "file").write_bytes(content)
    found = read_secret(SecretSettings(key_file=tmp_path / "file"), "", {})
    assert isinstance(found, KeyFile)
    assert found.reveal() == content
    with pytest.raises(UsageError, match="not UTF-8"):
        read_secret(SecretSettings(passphrase_file=tmp_path / "file"), "", {})


@pytest.mark.parametrize("field", ["passphrase_file", "key_file"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, field: str) -> None:
    with pytest.raises(UsageError, match=f"{tmp_path}.* cannot be read: No such file"):
        read_secret(SecretSettings(**{field: tmp_path / "none"}), "", {})
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_secret(SecretSettings(**{field: tmp_path}), "", {})


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("\n")
    for settings in (SecretSettings(passphrase_file=tmp_path / "file"), SecretSettings(ask=lambda question: "")):
        with pytest.raises(UsageError, match="empty"):
            read_secret(settings, "", {})


def test_a_printed_key_is_known_wherever_a_passphrase_is_asked(tmp_path: Path) -> None:
    recovery, root = RecoveryKey.random(), ExportedRoot(bytes(range(32)))
    texts = {
        recovery.printable(): recovery,
        recovery.printable().lower().replace("-", " ") + "\n": recovery,
        root.printable(): root,
        f"{EXPORT_TITLE} of a volume\n\nvolume  x\n\n    {root.printable()}\n\nKeep it.\n": root,
    }
    for text, wanted in texts.items():
        (tmp_path / "file").write_text(text)
        for settings in (SecretSettings(passphrase_file=tmp_path / "file"), SecretSettings(ask=lambda _, t=text: t)):
            found = read_secret(settings, "", {})
            assert type(found) is type(wanted)
            assert found.reveal() == wanted.reveal()  # type: ignore[union-attr]


def test_what_was_typed_in_another_encoding_is_refused() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        read_secret(SecretSettings(), "", {"CAS3FS_PASSPHRASE": os.fsdecode(b"caf\xe9")})
    with pytest.raises(UsageError, match="not UTF-8"):
        read_secret(SecretSettings(ask=lambda question: os.fsdecode(b"caf\xe9")), "", {})


# --- commands


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("false", "exit status 1"),
        ("sh -c 'echo half; exit 3'", "exit status 3"),
        ("/no/such/program", "No such file or directory"),
        ("echo 'unbalanced", "No closing quotation"),
        ("true", "passphrase is empty"),
        ("printf '\\377\\376'", "not UTF-8"),
    ],
)
def test_a_command_that_gives_no_passphrase_is_an_error(command: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        read_secret(SecretSettings(), "", {"CAS3FS_PASSPHRASE_COMMAND": command, "CAS3FS_PASSPHRASE": "other"})
    assert "half" not in str(caught.value)


def test_a_command_may_print_a_recovery_key() -> None:
    printed = RecoveryKey.random()
    found = read_secret(SecretSettings(), "", {"CAS3FS_PASSPHRASE_COMMAND": f"echo {printed.printable()}"})
    assert isinstance(found, RecoveryKey)


# --- new secrets


def test_a_new_secret_is_asked_for_as_such() -> None:
    settings = SecretSettings(ask=lambda question: "old", ask_new=lambda question: f"new {question}")
    found = read_new_secret(settings, "question", {})
    assert isinstance(found, Passphrase)
    assert found.reveal() == b"new question"


def test_an_export_is_no_new_secret() -> None:
    with pytest.raises(UsageError, match="cannot be a new key"):
        read_new_secret(SecretSettings(ask_new=lambda question: ExportedRoot(bytes(32)).printable()), "", {})


# --- traces


PASSPHRASE = "correct horse battery staple"


@pytest.mark.promise("a-secret-leaves-no-trace")
@pytest.mark.parametrize("winner", ["CAS3FS_PASSPHRASE", "CAS3FS_KEY_FILE", "CAS3FS_PASSPHRASE_COMMAND"])
def test_no_child_inherits_the_passphrase(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, winner: str) -> None:
    shown = tmp_path / "environment of the command"
    (tmp_path / "key").write_bytes(bytes(32))
    monkeypatch.setenv("CAS3FS_PASSPHRASE", PASSPHRASE)
    if winner != "CAS3FS_PASSPHRASE":
        command = f"sh -c 'env > \"{shown}\"; echo secret'"
        monkeypatch.setenv(winner, str(tmp_path / "key") if winner == "CAS3FS_KEY_FILE" else command)
    read_secret(SecretSettings(), "")
    inherited = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert PASSPHRASE not in inherited + (shown.read_text() if shown.exists() else "")
    assert "CAS3FS_PASSPHRASE" not in os.environ


READER = """
import ctypes, os, resource, sys
from cas3fs.config import SecretSettings
from cas3fs.volume.secret_source import read_secret

def ask(question):
    print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE), flush=True)
    return "typed"

print(repr(read_secret(SecretSettings(ask=ask), "", {})))
"""


@pytest.mark.promise("a-secret-leaves-no-trace")
def test_core_dumps_are_off_before_a_secret_is_read() -> None:
    done = subprocess.run([sys.executable, "-c", READER], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0 0 0", "***"]
