# SPDX-License-Identifier: GPL-3.0-or-later
"""What several verbs share: options, values of the command line, output, and the volume that a command works on."""

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import click

from cas3fs.config import ExpectedState, LocalFolders, SecretSettings, StoreSettings, find_local_folders
from cas3fs.errors import FilesNotStored, MountError, UsageError
from cas3fs.units import parse_duration, parse_size

if TYPE_CHECKING:
    from cas3fs.commands.requests import LocalMount, VolumeTarget
    from cas3fs.fuse.mountpoints import MountEntry

_Command = TypeVar("_Command", bound=Callable[..., Any])

FIRST_RESPONSE_S = 20.0
_STORE_SETTINGS = "cas3fs.store_settings"
_SECRET_OPTIONS = ("passphrase_file", "key_file", "kms_key")
_EXPECTED_OPTIONS: Final[Mapping[str, str]] = {
    "accept_rollback": "accept_rollback",
    "expect_volume": "fingerprint",
    "expect_snapshot": "snapshot",
}


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, such as 512MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else _or_fail(self, parse_size, value, param, ctx)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A number of seconds, such as 5m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return value if isinstance(value, float) else _or_fail(self, parse_duration, value, param, ctx)


def _or_fail(
    kind: click.ParamType,  # type: ignore[type-arg]
    parse: Callable[[str], Any],
    value: Any,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    try:
        return parse(str(value))
    except UsageError as error:
        return kind.fail(str(error), param, ctx)


def folder_options(command: _Command) -> _Command:
    """The options for the folders of this machine."""
    command = click.option(
        "--cache-dir", type=click.Path(file_okay=False), help="Folder for cached blocks (CAS3FS_CACHE_DIR)."
    )(command)
    return click.option(
        "--state-dir", type=click.Path(file_okay=False), help="Folder for local state (CAS3FS_STATE_DIR)."
    )(command)


def store_options(command: _Command) -> _Command:
    """The options for the object store, with a short wait for the first answer: a person waits at a terminal."""
    return _store_options(command, FIRST_RESPONSE_S)


def mount_store_options(command: _Command) -> _Command:
    """The same without that, as a mount may start with the machine, before the network is up; and what is expected."""

    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        context.meta.setdefault(_STORE_SETTINGS, {"first_response_s": None})[parameter.name] = value

    for name, metavar, text in (
        ("--expect-snapshot", "ID", "Refuse a volume whose newest snapshot is older than this one."),
        ("--expect-volume", "FINGERPRINT", "Refuse any other volume than the encrypted one that mkfs printed this of."),
    ):
        command = click.option(name, metavar=metavar, callback=keep, expose_value=False, help=text)(command)
    return _store_options(command, None)


def _store_options(command: _Command, first_response_s: float | None) -> _Command:
    """`store_settings` finds the values in the context: no command has to pass them on."""

    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        settings = context.meta.setdefault(_STORE_SETTINGS, {"first_response_s": first_response_s})
        settings[parameter.name] = value

    def option(name: str, field: str, kind: click.ParamType, text: str) -> None:  # type: ignore[type-arg]
        nonlocal command
        command = click.option(name, field, type=kind, callback=keep, expose_value=False, help=text)(command)

    usual = "2m" if first_response_s is None else f"{first_response_s:.0f}s for the first answer, 2m after it"
    option(
        "--download-limit",
        "download_bytes_per_s",
        Size(),
        "Download at most this much per second, such as 10MiB.",
    )
    option("--upload-limit", "upload_bytes_per_s", Size(), "Upload at most this much per second, such as 10MiB.")
    option("--kms-key", "kms_key", click.STRING, "ARN of the key of AWS KMS that opens the volume (CAS3FS_KMS_KEY).")
    file = click.Path(dir_okay=False, path_type=Path)
    option("--key-file", "key_file", file, "File that opens an encrypted volume (CAS3FS_KEY_FILE).")
    option("--passphrase-file", "passphrase_file", file, "File with the passphrase (CAS3FS_PASSPHRASE_FILE).")
    command = click.option(
        "--accept-rollback",
        is_flag=True,
        callback=keep,
        expose_value=False,
        help="Accept an older state of an encrypted volume than this machine has seen, or another volume.",
    )(command)
    text = f"Give up when the store has not answered for this long.  [default: {usual}]"
    option("--timeout", "timeout_s", Duration(), text)
    return click.option("--endpoint-url", metavar="URL", help="S3 endpoint, instead of the configured one.")(command)


def verbose_option(command: _Command) -> _Command:
    """``-v``."""
    return click.option("-v", "--verbose", is_flag=True, help="Log more.")(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value.")


def snapshot_selector(snapshot: str | None, at: str | None) -> str | None:
    """What the options --snapshot and --at select; None where neither is given.

    Raises:
        UsageError: both are given.
    """
    if snapshot is not None and at is not None:
        raise UsageError("--snapshot and --at exclude each other")
    return snapshot if at is None else f"@{at}"


def print_json(value: Any) -> None:
    """Print `value` as one JSON value over several lines."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def refuse_unstored(unstored: Sequence[Mapping[str, Any]] | None, snapshot: str) -> None:
    """Raise FilesNotStored where files could not be stored; `snapshot` has everything else."""
    if unstored:
        raise FilesNotStored.of(list(unstored), f"snapshot {snapshot} has everything else")


def log_to_stderr(verbose: bool) -> None:
    """Send the log to standard error, for verbs that stay in the foreground."""
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="cas3fs: %(levelname)s: %(message)s")
    quiet_libraries()


def quiet_libraries() -> None:
    """Keep libraries from logging every request."""
    for name in ("boto3", "botocore", "urllib3", "s3transfer", "llfuse"):
        logging.getLogger(name).setLevel(logging.WARNING)


def store_settings(url: str, endpoint_url: str | None) -> StoreSettings:
    """The settings of the store at `url`, which is a `normal_url`."""
    context = click.get_current_context(silent=True)
    options = {} if context is None else context.meta.get(_STORE_SETTINGS, {})
    secrets = SecretSettings(
        **{name: value for name, value in options.items() if name in _SECRET_OPTIONS},
        ask=ask_passphrase if has_terminal() else None,
        ask_new=ask_new_passphrase if has_terminal() else None,
    )
    params = {} if context is None else context.params
    expected = ExpectedState(
        state_dir=find_local_folders(params.get("state_dir")).state_dir,
        **{field: options[name] for name, field in _EXPECTED_OPTIONS.items() if name in options},
    )
    own = {*_SECRET_OPTIONS, *_EXPECTED_OPTIONS}
    others = {name: value for name, value in options.items() if name not in own}
    return StoreSettings(url=url, endpoint_url=endpoint_url, secrets=secrets, expected=expected, **others)


def has_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


def ask_passphrase(question: str) -> str:
    """Ask at the terminal, without showing what is typed.

    Raises:
        click.Abort: the input has ended.
        UsageError: what was typed is not in the encoding of the terminal.
    """
    import getpass

    from cas3fs.encryption.secret import forbid_core_dumps

    forbid_core_dumps()
    try:
        return getpass.getpass(f"{question}: ")
    except EOFError:
        raise click.Abort from None
    except UnicodeDecodeError:
        raise UsageError("what was typed is not in the encoding of the terminal") from None


def ask_new_passphrase(question: str) -> str:
    """Ask twice, until both are the same."""
    while True:
        first = ask_passphrase(question)
        if first == ask_passphrase("once more"):
            return first
        click.echo("cas3fs: the two differ", err=True)


def normal_url(named: str) -> str:
    """The URL of a volume in the form in which URLs are compared; of a directory also the path can be given.

    Raises:
        UsageError: it names no store.
    """
    from cas3fs.volume.location import normal_url as normal

    is_path = "://" not in named and named.startswith(("/", ".", "~"))
    return normal(Path(os.path.abspath(Path(named).expanduser())).as_uri() if is_path else named)  # noqa: PTH100 - ..


@attrs.frozen
class VolumeArgument:
    """What a command line says of the volume that it is about."""

    named: str
    """A URL or a mount point."""
    state_dir: str | None
    cache_dir: str | None
    endpoint_url: str | None = None

    def find(self) -> "VolumeTarget":
        """The volume, and its mount on this machine if there is one.

        Raises:
            MountError: it is neither a URL nor a mount, or the mount cannot be reached.
            ControlError: the process of the mount does not respond.
            UsageError: the URL names no store.
        """
        from cas3fs.commands.requests import VolumeTarget

        folders = find_local_folders(self.state_dir, self.cache_dir)
        named = volume_url(self.named)
        mount = find_mount(named, folders, self.endpoint_url)
        if mount is None and "://" not in named:
            if not (Path(named).expanduser() / "volume").is_file():
                raise MountError(f"{named} is not a mount of cas3fs; for a volume that is not mounted give its URL")
            named = normal_url(named)
            mount = find_mount(named, folders, self.endpoint_url)
        store = store_settings(named if mount is None else mount.url, self.endpoint_url)
        return VolumeTarget(store, folders, mount)


def volume_argument(command: _Command) -> _Command:
    """The argument VOLUME and the options that say where it is, as one value: a `VolumeArgument`."""

    def wrapped(
        *args: Any, volume: str, state_dir: str | None, cache_dir: str | None, endpoint_url: str | None, **rest: Any
    ) -> Any:
        return command(*args, volume=VolumeArgument(volume, state_dir, cache_dir, endpoint_url), **rest)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    return click.argument("volume")(folder_options(store_options(wrapped)))  # type: ignore[return-value]


def find_mount(volume: str, folders: LocalFolders, endpoint_url: str | None = None) -> "LocalMount | None":
    """The mount that `volume`, a URL or a mount point, means; None where no process of this machine serves it.

    Of two mounts of one URL through two endpoints it is the one of that endpoint.

    Raises:
        MountError: the mount cannot be reached: it is another user's, or its process is gone.
        ControlError: its process does not respond.
    """
    from cas3fs.commands.requests import LocalMount

    found = find_mount_or_dead(volume, folders, endpoint_url)
    if found is None or isinstance(found, LocalMount):
        return found
    raise MountError(f"the process of the mount on {found.mountpoint} is gone; `cas3fs umount` cleans it up")


def find_mount_or_dead(
    volume: str, folders: LocalFolders, endpoint_url: str | None = None
) -> "LocalMount | MountEntry | None":
    """As `find_mount`; a mount whose process is gone is returned as the kernel's entry."""
    from cas3fs.cli.socket_lookup import find_socket
    from cas3fs.commands.requests import LocalMount
    from cas3fs.control import SOCKET_NAME, find_mount_records
    from cas3fs.fuse.mountpoints import mount_at, resolve
    from cas3fs.volume.location import belongs_to_endpoint

    is_url = "://" in volume
    if is_url:  # the writer's state directory first: views of snapshots may be mounted beside it
        for state, record in find_mount_records(folders.state_dir):
            if volume == record.url and belongs_to_endpoint(state, StoreSettings(volume, endpoint_url)):
                return LocalMount(record.url, Path(record.mountpoint), state / SOCKET_NAME)
    mount = _writer_mount(volume, folders, endpoint_url) if is_url else mount_at(volume)
    if mount is not None:
        socket = find_socket(mount.mountpoint, folders)
        return mount if socket is None else LocalMount(mount.url, mount.mountpoint, socket)
    for state, record in () if is_url else find_mount_records(folders.state_dir):
        if resolve(volume) == Path(record.mountpoint):
            return LocalMount(record.url, Path(record.mountpoint), state / SOCKET_NAME)
    return None


def _writer_mount(url: str, folders: LocalFolders, endpoint_url: str | None) -> "MountEntry | None":
    """The mount through which a volume is written; if there is none, a mount whose process is gone."""
    from cas3fs.cli.socket_lookup import find_socket
    from cas3fs.fuse.mountpoints import list_mounts
    from cas3fs.volume.location import belongs_to_endpoint
    from cas3fs.volume.state_directory import is_view

    dead = None
    for mount in list_mounts():
        if mount.url == url:
            socket = find_socket(mount.mountpoint, folders)
            is_served = socket is not None and belongs_to_endpoint(socket.parent, StoreSettings(url, endpoint_url))
            if socket is not None and is_served and not is_view(socket.parent):
                return mount
            dead = mount if socket is None else dead
    return dead


def volume_url(volume: str) -> str:
    """The URL that `volume`, a URL or a mount point, means.

    Raises:
        UsageError: it is neither.
    """
    return normal_url(volume) if "://" in volume else volume
