# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: an environment of their own, servers to talk to, and a look at what they left behind.

For the length of the session every temporary file, and every default folder of cas3fs, lies in one short-named folder
(`sandbox`), and every process started carries `SESSION_VARIABLE` in its environment. So when the session ends, mounts,
processes and files that a test left behind can be told from those of any other session on the machine: they are
removed, and the session fails.

`./dev test --long` runs the same tests with more: more examples for hypothesis, more rounds, longer loads. A test asks
the fixture `long`; one that needs more time than the 120 s of all says so: ``@pytest.mark.lasts(300, long_s=7200)``.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer, S3Server

SESSION_VARIABLE = "CAS3FS_TEST_SESSION"
NO_FUSE_VARIABLE = "CAS3FS_TEST_NO_FUSE"
SANDBOX = pytest.StashKey[Path]()
WATCHED_FOLDERS = ("t", "h", "w")  # TMPDIR, the default folders of programs, workspaces
SETTLE_S, GRACE_S = 0.05, 3.0
LONG_TIMES = 10  # how many times as many examples, and seconds before a test is given up, a long session has

# A test that wants other than the 100 examples of all says so in proportion, so that a long session multiplies them
# too: ``@settings(max_examples=settings.default.max_examples // 2)``.
settings.register_profile("usual", deadline=None)
settings.register_profile(
    "long", deadline=None, max_examples=100 * LONG_TIMES, suppress_health_check=[HealthCheck.too_slow]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--long` and `--soak-minutes`."""
    parser.addoption("--long", action="store_true", help="the long form: more examples, more rounds, longer loads")
    parser.addoption("--soak-minutes", type=float, metavar="N", help="how long a mount is loaded (2, or 30 if long)")


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether this session is of the long form, which may take hours."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="session")
def soak_s(pytestconfig: pytest.Config) -> float:
    """How many seconds a mount is kept under load."""
    return _soak_s(pytestconfig)


def _soak_s(config: pytest.Config) -> float:
    asked = config.getoption("--soak-minutes")
    return 60.0 * float(asked if asked is not None else 30 if config.getoption("--long") else 2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives each test the time it may take, if that is not the time of all."""
    in_long = config.getoption("--long")
    for item in items:
        seconds = float(config.getini("timeout")) * LONG_TIMES if in_long else None
        if lasts := item.get_closest_marker("lasts"):
            seconds = lasts.kwargs["long_s"] if in_long else lasts.args[0]
        if seconds is not None and "soak_s" in getattr(item, "fixturenames", ()):
            seconds += _soak_s(config)
        if seconds is not None and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.fixture
def need_fuse() -> None:
    """The test mounts: where that is impossible it fails, or is skipped if `CAS3FS_TEST_NO_FUSE=1` asks for that."""
    if os.environ.get(NO_FUSE_VARIABLE) == "1":
        pytest.skip(f"{NO_FUSE_VARIABLE}=1: no mounts")
    if obstacle := _obstacle_to_mounting():
        pytest.fail(f"cannot mount: {obstacle} (set {NO_FUSE_VARIABLE}=1 to skip the tests that mount)", pytrace=False)


def _obstacle_to_mounting() -> str:
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be read and written by this user"
    if shutil.which("fusermount") is None:
        return "the command fusermount is not installed"
    return ""


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator["RcloneServer"]:
    """A real S3 server on a folder (`rclone serve s3`); it ignores the conditions of conditional requests."""
    from cas3fs.testing import servers

    with servers.rclone_s3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_s3() -> Iterator["S3Server"]:
    """moto's S3 server, in memory; it honours conditions."""
    from cas3fs.testing import servers

    with servers.moto_s3() as server:
        yield server


@pytest.fixture
def workspace(sandbox: Path) -> Iterator[Path]:
    """A folder like `tmp_path`, with a path so short that a Unix socket below it can be bound."""
    with tempfile.TemporaryDirectory(prefix="", dir=sandbox / "w", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


# --- the sandbox, and what was left in it


def pytest_configure(config: pytest.Config) -> None:
    """Lets `tmp_path` lie in the sandbox, unless `--basetemp` names a folder that shall outlive the session."""
    signal.signal(signal.SIGTERM, _interrupt)
    config.addinivalue_line("markers", "lasts(usual_s, long_s): seconds that the test may take, by the session's form")
    config.addinivalue_line(
        "markers", "promise(*keys): claims of docs/promises.rst, rules.rst or posix.rst that it shows"
    )
    settings.load_profile("long" if config.getoption("--long") else "usual")
    root = Path(tempfile.mkdtemp(prefix="c3t-"))
    config.stash[SANDBOX] = root
    if not config.option.basetemp and not hasattr(config, "workerinput"):
        config.option.basetemp = str(root / "p")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Makes a session that is told to end clean up, as with ^C, even if it is told twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the sandbox; its mounts are gone by now."""
    shutil.rmtree(config.stash[SANDBOX], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def sandbox(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which everything of this session lies; that nothing is left is part of passing."""
    token = secrets.token_hex(8)
    root = pytestconfig.stash[SANDBOX]
    with pytest.MonkeyPatch.context() as patch:
        _seal_off(patch, root, token)
        yield root
        left = _processes_left(token) + _mounts_left([root, tmp_path_factory.getbasetemp()]) + _files_left(root)
    if left:
        pytest.fail("the tests left behind:\n  " + "\n  ".join(left), pytrace=False)


def _seal_off(patch: pytest.MonkeyPatch, root: Path, token: str) -> None:
    """Makes this process and all that it starts use `root`, and nothing of the user's settings and credentials."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "CAS3FS_")) and name != NO_FUSE_VARIABLE]:
        patch.delenv(name)
    for folder in WATCHED_FOLDERS:
        (root / folder).mkdir()
    patch.setenv(SESSION_VARIABLE, token)
    patch.setenv("TMPDIR", str(root / "t"))
    patch.setattr(tempfile, "tempdir", str(root / "t"))
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        patch.setenv(name, str(root / "h"))
    patch.setenv("AWS_CONFIG_FILE", os.devnull)
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def _processes_left(token: str) -> list[str]:
    """Kills what was started with this session's token and does not end by itself, and says what it was."""
    time.sleep(SETTLE_S)  # a process that was started just now shows no environment yet
    deadline = time.monotonic() + GRACE_S
    while running := _processes_of(token):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"process {pid}: {command}" for pid, command in running.items()]


def _processes_of(token: str) -> dict[int, str]:
    """The running processes that were started with this session's token: their ids and command lines."""
    mark = f"{SESSION_VARIABLE}={token}".encode()
    running = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                running[int(process.name)] = command.decode(errors="replace").strip()
    return running


def _mounts_left(roots: list[Path]) -> list[str]:
    """Unmounts what is mounted below `roots`, and says what it was."""
    left = []
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        source, target, kind = line.split(" ")[:3]
        if any(Path(target).is_relative_to(root) for root in roots):
            subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
            left.append(f"mount of {kind} ({source}) on {target}")
    return left


def _files_left(root: Path) -> list[str]:
    """Names what lies where temporary files, default folders and workspaces are."""
    return [f"file or folder {path}" for folder in WATCHED_FOLDERS for path in sorted((root / folder).iterdir())]
