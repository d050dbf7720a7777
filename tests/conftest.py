# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by all tests: an isolated environment, servers, and a check of what tests leave behind.

During a session, every temporary file and every default folder of cas3fs is in one folder with a short name
(`sandbox`), and every process has `SESSION_VARIABLE` in its environment. So at the end of the session, mounts,
processes and files that a test left behind can be distinguished from those of other sessions on the machine: they are
removed, and the session fails. Where several tests run at once (pytest-xdist), each process is such a session.

`./dev test --long` runs the same tests with more examples, more rounds and longer loads. A test asks the fixture `long`
for that. A test that needs more than the default of 120 s has a marker: ``@pytest.mark.lasts(300, long_s=7200)``.

A test that mounts does so through the front-end that the fixture `frontend` names, as ``cas3fs mount --frontend`` does;
`cas3fs_mount`, `machine` in tests/mount, and `mount` and `folder` in tests/posix use it. Without a marker that is the
kernel front-end alone. A test with the marker ``@pytest.mark.frontend("kernel", "llfuse")`` runs once through each. The
nearest marker counts: in a module whose `pytestmark` names both, ``@pytest.mark.frontend("kernel", lacks="O_TMPFILE")``
at a test says what llfuse would need for it, and ``@pytest.mark.frontend("llfuse")`` that it tests what is different
there. ``./dev test --frontend llfuse`` runs all tests through llfuse, but for those whose marker names "kernel" alone:
these are deselected, and the session ends with their number and what they lack. Module `tests.frontends` has what makes
mounts.

A test that makes volumes does so through the fixture `encryption`, in the same way: without a marker they are plain,
``@pytest.mark.encryption("plain", "encrypted")`` runs it once with each, and ``./dev test --encrypted`` runs all tests
with encrypted volumes, but for those whose marker names "plain" alone. Module `tests.encrypted` has what the fixtures
that make volumes need.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests import frontends

if TYPE_CHECKING:
    from cas3fs.testing.servers import RcloneServer, S3Server

SESSION_VARIABLE = "CAS3FS_TEST_SESSION"
NO_FUSE_VARIABLE = "CAS3FS_TEST_NO_FUSE"
ENCRYPTIONS = ("plain", "encrypted")
SANDBOX = pytest.StashKey[Path]()
NOT_RUN = pytest.StashKey[Counter[str]]()
WATCHED_FOLDERS = ("t", "h", "w")  # TMPDIR, the default folders of programs, workspaces
SETTLE_S, GRACE_S = 0.05, 3.0
LONG_TIMES = 10  # factor for the number of examples and the timeouts in a long session

# A test that needs another number of examples gives it in proportion, so that a long session multiplies it, too:
# ``@settings(max_examples=settings.default.max_examples // 2)``.
settings.register_profile("usual", deadline=None)
settings.register_profile(
    "long", deadline=None, max_examples=100 * LONG_TIMES, suppress_health_check=[HealthCheck.too_slow]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--long`, `--encrypted`, `--frontend` and `--soak-minutes`."""
    parser.addoption("--long", action="store_true", help="the long form: more examples, more rounds, longer loads")
    parser.addoption("--encrypted", action="store_true", help="every volume is encrypted")
    parser.addoption("--frontend", choices=frontends.FRONTENDS, help="every mount is made through this front-end")
    parser.addoption("--soak-minutes", type=float, metavar="N", help="how long a mount is loaded (2, or 30 if long)")


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Return whether this is a long session, which may take hours."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture(scope="session")
def soak_s(pytestconfig: pytest.Config) -> float:
    """Return for how many seconds a mount is kept under load."""
    return _soak_s(pytestconfig)


def _soak_s(config: pytest.Config) -> float:
    asked = config.getoption("--soak-minutes")
    return 60.0 * float(asked if asked is not None else 30 if config.getoption("--long") else 2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of other front-ends, and set the timeout of each test that needs another one than the default."""
    others, config.stash[NOT_RUN] = frontends.deselect(items, config.getoption("--frontend"))
    config.hook.pytest_deselected(items=others)
    in_long = config.getoption("--long")
    for item in items:
        seconds = float(config.getini("timeout")) * LONG_TIMES if in_long else None
        if lasts := item.get_closest_marker("lasts"):
            seconds = lasts.kwargs["long_s"] if in_long else lasts.args[0]
        if seconds is not None and "soak_s" in getattr(item, "fixturenames", ()):
            seconds += _soak_s(config)
        if seconds is not None and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(seconds))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where several processes run the tests, tell the first one what was not run."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not run"] = dict(session.config.stash.get(NOT_RUN, Counter()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what one of the processes has told: each of them has collected all tests."""
    node.config.stash[NOT_RUN] = Counter(getattr(node, "workeroutput", {}).get("not run", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what the front-end that was asked for lacks."""
    if reasons := config.stash.get(NOT_RUN, Counter()):
        terminalreporter.section(f"{reasons.total()} tests not run through {config.getoption('--frontend')}")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:5} {reason}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that mounts once through each front-end that its marker names, and so for encryption."""
    if "frontend" in metafunc.fixturenames:
        through = frontends.names_of(metafunc.definition, metafunc.config.getoption("--frontend"))
        metafunc.parametrize("frontend", through, indirect=True, scope="session")
    if "encryption" in metafunc.fixturenames and (names := _encryptions(metafunc)) != ENCRYPTIONS[:1]:
        metafunc.parametrize("encryption", names, indirect=True, scope="module")


def _encryptions(metafunc: pytest.Metafunc) -> tuple[str, ...]:
    """How the volumes of a test are made; plain ones do without a parameter."""
    marker = metafunc.definition.get_closest_marker("encryption")
    names = tuple(marker.args) if marker else ENCRYPTIONS[:1]
    assert names and set(names) <= set(ENCRYPTIONS), f"neither plain nor encrypted: {names}"
    is_for_both = marker is None or len(names) > 1
    return ENCRYPTIONS[1:] if metafunc.config.getoption("--encrypted") and is_for_both else names


@pytest.fixture(scope="session")
def frontend(request: pytest.FixtureRequest) -> str:
    """Return the front-end of the mounts of this test; the docstring of this module says how a test chooses."""
    return str(request.param)


@pytest.fixture(scope="module")
def encryption(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield whether volumes are "plain" or "encrypted"; the docstring of this module says how a test chooses."""
    chosen = str(getattr(request, "param", ENCRYPTIONS[0]))
    if chosen == "plain":
        yield chosen
        return
    from cas3fs.config import KEY_FILE_VARIABLE
    from tests.encrypted import write_key_file

    key_file = tmp_path_factory.mktemp("key") / "key"
    write_key_file(key_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_FILE_VARIABLE, str(key_file))
        yield chosen


@pytest.fixture
def cas3fs_mkfs_options(encryption: str) -> tuple[str, ...]:
    """Return the options with which `cas3fs_volume` is made."""
    return ("--encrypt",) if encryption == "encrypted" else ()


@pytest.fixture
def cas3fs_mount_options(frontend: str) -> tuple[str, ...]:
    """Return the options with which `cas3fs_mount` is mounted."""
    return ("--frontend", frontend)


@pytest.fixture
def need_fuse() -> None:
    """Fail the test if mounting is impossible, or skip it if `CAS3FS_TEST_NO_FUSE=1`."""
    if os.environ.get(NO_FUSE_VARIABLE) == "1":
        pytest.skip(f"{NO_FUSE_VARIABLE}=1: no mounts")
    if obstacle := _obstacle_to_mounting():
        pytest.fail(f"cannot mount: {obstacle} (set {NO_FUSE_VARIABLE}=1 to skip the tests that mount)", pytrace=False)


def _obstacle_to_mounting() -> str:
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be read and written by this user"
    if shutil.which("fusermount3") is None:
        return "the command fusermount3 is not installed"
    return ""


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator["RcloneServer"]:
    """Yield a real S3 server on a folder (`rclone serve s3`), which ignores conditions of requests."""
    from cas3fs.testing import servers

    with servers.rclone_s3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_s3() -> Iterator["S3Server"]:
    """Yield moto's S3 server, in memory, which honours conditions."""
    from cas3fs.testing import servers

    with servers.moto_s3() as server:
        yield server


@pytest.fixture
def workspace(sandbox: Path) -> Iterator[Path]:
    """Yield a folder like `tmp_path`, whose path is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="", dir=sandbox / "w", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


# --- the sandbox, and what tests left in it


def pytest_configure(config: pytest.Config) -> None:
    """Register markers, and put `tmp_path` into the sandbox unless `--basetemp` names a folder to keep."""
    signal.signal(signal.SIGTERM, _interrupt)
    config.addinivalue_line("markers", "lasts(usual_s, long_s): seconds that the test may take, by the session's form")
    config.addinivalue_line("markers", "frontend(*names, lacks): the front-ends to mount through: kernel, llfuse")
    config.addinivalue_line("markers", "encryption(*names): how the test's volumes are made: plain, encrypted")
    config.addinivalue_line(
        "markers", "promise(*keys): claims of docs/promises.rst, rules.rst or posix.rst that it shows"
    )
    settings.load_profile("long" if config.getoption("--long") else "usual")
    root = Path(tempfile.mkdtemp(prefix="c3t-"))
    config.stash[SANDBOX] = root
    if not config.option.basetemp and not hasattr(config, "workerinput"):
        config.option.basetemp = str(root / "p")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End the session as ^C does, so that it cleans up, even if the signal comes twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete the sandbox; its mounts are gone by now."""
    shutil.rmtree(config.stash[SANDBOX], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def sandbox(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the folder that holds everything of this session; the session fails if anything is left in it."""
    token = secrets.token_hex(8)
    root = pytestconfig.stash[SANDBOX]
    with pytest.MonkeyPatch.context() as patch:
        _seal_off(patch, root, token)
        if through := pytestconfig.getoption("--frontend"):
            patch.setenv(frontends.VARIABLE, through)
        yield root
        left = _processes_left(token) + _mounts_left([root, tmp_path_factory.getbasetemp()]) + _files_left(root)
    if left:
        pytest.fail("the tests left behind:\n  " + "\n  ".join(left), pytrace=False)


def _seal_off(patch: pytest.MonkeyPatch, root: Path, token: str) -> None:
    """Make this process and its children use `root`, and none of the user's settings and credentials."""
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
    """Kill the processes of this session that do not end by themselves, and return what they were."""
    time.sleep(SETTLE_S)  # a process that has just started shows no environment yet
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
    """Return the ids and command lines of the running processes that have this session's token."""
    mark = f"{SESSION_VARIABLE}={token}".encode()
    running = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                running[int(process.name)] = command.decode(errors="replace").strip()
    return running


def _mounts_left(roots: list[Path]) -> list[str]:
    """Unmount everything below `roots`, and return what it was."""
    left = []
    for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
        source, target, kind = line.split(" ")[:3]
        if any(Path(target).is_relative_to(root) for root in roots):
            subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
            left.append(f"mount of {kind} ({source}) on {target}")
    return left


def _files_left(root: Path) -> list[str]:
    """Return what is left in the folders of temporary files, default folders and workspaces."""
    return [f"file or folder {path}" for folder in WATCHED_FOLDERS for path in sorted((root / folder).iterdir())]
