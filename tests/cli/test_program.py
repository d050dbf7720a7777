# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: statuses, one clear line for what goes wrong, JSON where it reports."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cas3fs.cli.common import store_settings
from cas3fs.cli.program import load_verb, run


@pytest.fixture
def url(tmp_path: Path) -> str:
    (tmp_path / "v").mkdir()
    return (tmp_path / "v").as_uri()


def test_help_is_quick_because_nothing_heavy_is_imported_for_it() -> None:
    code = "import cas3fs.cli.program as it, sys; it.run(['--help']); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"boto3", "botocore", "sqlalchemy", "alembic", "llfuse", "rich", "zstandard", "blake3", "sqlite3", "cattrs"}
    assert heavy.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("verb", ["mkfs", "mount", "umount", "flush", "stats"])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: cas3fs {verb} ")
    assert load_verb(verb).name == verb


@pytest.mark.parametrize(
    "arguments",
    [
        ["unknown"],
        ["mkfs"],
        ["mkfs", "--no-such-option", "file:///x"],
        ["mkfs", "--no-encrypt", "--block-size", "much", "file:///x"],
        ["mkfs", "--no-encrypt", "--chunker", "none", "file:///x"],
        ["mount", "file:///x", "/y", "--snapshot-interval", "often"],
        ["mkfs", "--no-encrypt", "ftp://x"],
        ["mkfs", "--no-encrypt", "relative/path"],
        ["mkfs", "--no-encrypt", "s3://"],
    ],
)
def test_a_command_line_that_makes_no_sense_has_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    told = capsys.readouterr()
    assert told.err
    assert not told.out


def test_a_failure_has_status_1_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mkfs", "--no-encrypt", (tmp_path / "nowhere" / "v").as_uri()]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("cas3fs: ")
    assert told.err.count("\n") == 1
    assert not told.out


def test_what_mkfs_made_is_told_as_json_too(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mkfs", "--no-encrypt", url, "--json", "--label", "mine", "--block-size", "64KiB"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["url"], made["label"], made["block_size"], made["fenced"]) == (url, "mine", 65536, True)
    assert run(["mkfs", "--no-encrypt", url]) == 1
    assert "there is a volume" in capsys.readouterr().err


def test_a_snapshot_is_not_taken_over(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m").mkdir()
    assert run(["mount", "--snapshot", "00000001-0000000001", "--take-over", url, str(tmp_path / "m")]) == 2
    assert "read-only" in capsys.readouterr().err


@pytest.mark.promise("unusable-requests-are-refused-at-once")
@pytest.mark.parametrize("what", ["state directory", "cache directory"])
def test_a_mount_that_would_hide_what_it_works_with_is_refused(
    url: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["mkfs", "--no-encrypt", url])
    mountpoint, elsewhere = tmp_path / "mnt", tmp_path / "elsewhere"
    mountpoint.mkdir()
    (tmp_path / "link").symlink_to(mountpoint)
    inside = tmp_path / "link" / "below"
    state, cache = (inside if what == name else elsewhere for name in ("state directory", "cache directory"))
    places = ["--state-dir", str(state), "--cache-dir", str(cache)]
    capsys.readouterr()
    assert run(["mount", url, str(mountpoint), *places]) == 2
    assert f"the {what} " in (told := capsys.readouterr().err)
    assert f"lies below the mount point {mountpoint}" in told
    assert not inside.exists()


@pytest.fixture
def silent_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that takes connections, and never says anything."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.promise("commands-wait-for-signs-of-life")
@pytest.mark.parametrize("command", [["mkfs", "--no-encrypt"], ["stats"], ["snapshot", "list"], ["epochs"]])
def test_a_store_that_does_not_answer_is_waited_for_as_long_as_was_said(
    silent_endpoint: str, command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    begin_s = time.monotonic()
    places = [] if command[0] == "mkfs" else ["--state-dir", str(tmp_path)]
    assert run([*command, "s3://bucket/v", "--endpoint-url", silent_endpoint, "--timeout", "1s", *places]) == 1
    assert time.monotonic() - begin_s < 20
    assert "sent no response within 1 s" in capsys.readouterr().err


@pytest.mark.promise("commands-wait-for-signs-of-life")
def test_who_waits_at_a_terminal_waits_shortly_for_the_first_answer_unless_it_is_a_mount() -> None:
    waits = {}
    for name in ("stats", "fsck", "mount"):
        command = load_verb(name)
        (option,) = (one for one in command.params if one.name == "timeout_s")
        context = click.Context(command)
        with context:
            option.process_value(context, None)
            waits[name] = store_settings("s3://bucket/v", None).first_response_s
    assert waits == {"stats": 20, "fsck": 20, "mount": None}


@pytest.mark.parametrize("verb", ["mount", "mkfs", "gc", "fsck"])
def test_bandwidth_can_be_limited(verb: str) -> None:
    command = load_verb(verb)
    options = {option.name: option for option in command.params}
    with click.Context(command) as context:
        options["upload_bytes_per_s"].process_value(context, "10MiB")
        options["download_bytes_per_s"].process_value(context, None)
        settings = store_settings("s3://bucket/v", None)
    assert (settings.upload_bytes_per_s, settings.download_bytes_per_s) == (10 << 20, None)


def test_stats_of_an_unmounted_volume_are_a_table_or_json(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["mkfs", "--no-encrypt", url])
    capsys.readouterr()
    assert run(["stats", "--state-dir", str(tmp_path / "s"), url]) == 0
    assert "not mounted" in capsys.readouterr().out
    assert run(["stats", "--state-dir", str(tmp_path / "s"), "--json", url]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 0


def test_what_is_not_mounted_cannot_be_flushed_or_unmounted(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["flush", url], ["flush", str(tmp_path)], ["umount", str(tmp_path)], ["stats", str(tmp_path)]):
        assert run([*arguments, "--state-dir", str(tmp_path / "s")]) == 1
        assert "not" in capsys.readouterr().err


def test_the_module_is_the_command(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cas3fs", "mkfs", "--no-encrypt", url],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    assert "created at" in done.stdout


@pytest.mark.parametrize("form", ["./store", "../here/store", "{here}/store", "~/store", "file://{here}/store"])
def test_mkfs_makes_a_missing_directory_however_it_is_named(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    named = form.format(here=here)
    assert run(["mkfs", "--no-encrypt", "--json", named]) == 0
    assert json.loads(capsys.readouterr().out)["url"] == (here / "store").as_uri()
    assert (here / "store").stat().st_mode & 0o777 == 0o700
    assert run(["stats", "--json", named]) == 0
    assert json.loads(capsys.readouterr().out)["url"] == (here / "store").as_uri()


def test_mkfs_leaves_no_directory_where_it_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "key"
    assert run(["mkfs", "--encrypt", "--key-file", str(missing), str(tmp_path / "store")]) != 0
    assert str(missing) in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_mkfs_does_not_make_what_a_disk_that_is_not_mounted_would_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["mkfs", "--no-encrypt", str(tmp_path / "disk" / "store")]) == 1
    assert "mount the disk that it is on" in capsys.readouterr().err
    assert not (tmp_path / "disk").exists()


def test_help_and_version_are_verbs_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: cas3fs [OPTIONS] COMMAND")
    assert run(["help", "snapshot", "create"]) == 0
    assert capsys.readouterr().out.startswith("Usage: cas3fs snapshot create ")
    assert run(["version"]) == run(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
