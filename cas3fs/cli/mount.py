# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs mount``: mount a volume."""

import os
from pathlib import Path
from typing import Final

import attrs
import click

from cas3fs.cli.background import Ready, run_in_background, run_in_foreground
from cas3fs.cli.common import (
    Duration,
    Size,
    folder_options,
    mount_store_options,
    normal_url,
    snapshot_selector,
    store_settings,
    verbose_option,
)
from cas3fs.config import (
    FRONTENDS,
    LocalFolders,
    MountSettings,
    StoreSettings,
    WriterSettings,
    find_local_folders,
    split_options,
)
from cas3fs.errors import UsageError
from cas3fs.units import format_duration, format_size

MIN_WORKERS = 4
_DEFAULTS: Final = WriterSettings()
DEFAULT_WORKERS: Final = MountSettings(Path()).workers


def _size(size_bytes: int) -> str:
    """A size as options take it."""
    return format_size(size_bytes).replace(".0 ", "")


@click.command()
@click.argument("volume")
@click.argument("directory")  # no click.Path: that would stat a mount that may not respond
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to standard error.")
@click.option("--read-only", is_flag=True, help="Mount the newest snapshot without becoming the writer.")
@click.option(
    "--snapshot",
    metavar="SNAPSHOT",
    help="Mount this snapshot read-only; the volume may be mounted too: an id, a name, `latest`, @2h.",
)
@click.option("--at", metavar="TIME", help="Mount the newest snapshot of that time read-only: '2026-11-28 10:00'.")
@click.option(
    "--take-over",
    is_flag=True,
    help="Take over from a writer that has not released the volume; that writer is fenced.",
)
@click.option(
    "--cache-size", type=Size(), help=f"Size of the disk cache.  [default: {_size(_DEFAULTS.cache_size_bytes)}]"
)
@click.option(
    "--cache",
    "caches",
    multiple=True,
    metavar="CACHE",
    help="A cache, instead of the disk cache alone; repeatable, fastest first: memory:256MiB, disk:10GiB, "
    "memcached://HOST:11211,HOST2:11211, web+http://HOST/PATH.",
)
@click.option(
    "--encrypt-local",
    is_flag=True,
    help="Encrypt the disk cache of an encrypted volume; the index (names, attributes) and data that is not stored yet "
    "stay readable in the state directory.",
)
@click.option(
    "--staging-size",
    type=Size(),
    default=_DEFAULTS.staging_size_bytes,
    help=f"Disk space for data that is not stored yet.  [default: {_size(_DEFAULTS.staging_size_bytes)}]",
)
@click.option(
    "--snapshot-interval",
    type=Duration(),
    default=_DEFAULTS.snapshot_interval_s,
    help="Publish a snapshot this often if something has changed; 0: never.  "
    f"[default: {format_duration(int(_DEFAULTS.snapshot_interval_s))}]",
)
@click.option(
    "--gc-interval",
    type=Duration(),
    default=_DEFAULTS.gc_interval_s,
    help="Run gc this often.  [default: never]",
)
@click.option(
    "--fsync",
    "fsync_mode",
    type=click.Choice(["local", "remote"]),
    default="local",
    show_default=True,
    help="fsync returns when data is on the local disk, or in a snapshot in the store.",
)
@click.option(
    "--workers",
    type=click.IntRange(MIN_WORKERS, 256),
    default=DEFAULT_WORKERS,
    show_default=True,
    help="Threads that serve requests; the kernel front-end has as many for each kind that waits.",
)
@click.option(
    "-o",
    "options",
    multiple=True,
    metavar="OPTIONS",
    help="Mount options as of mount(8), separated by commas; repeatable.",
)
@click.option(
    "--frontend",
    type=click.Choice(FRONTENDS),
    default="auto",
    show_default=True,
    help="What speaks with the kernel: cas3fs itself (kernel), or the library llfuse.",
)
@click.option(
    "--writeback",
    is_flag=True,
    help="Let the kernel collect writes: faster in small pieces, and safe only after close or fsync.",
)
@click.option("--no-acl", is_flag=True, help="Refuse POSIX access lists, so that programs use the mode.")
@folder_options
@mount_store_options
@verbose_option
def mount(
    *,
    volume: str,
    directory: str,
    foreground: bool,
    read_only: bool,
    snapshot: str | None,
    at: str | None,
    take_over: bool,
    cache_size: int | None,
    caches: tuple[str, ...],
    encrypt_local: bool,
    staging_size: int,
    snapshot_interval: float,
    gc_interval: float,
    fsync_mode: str,
    workers: int,
    frontend: str,
    writeback: bool,
    no_acl: bool,
    options: tuple[str, ...],
    state_dir: str | None,
    cache_dir: str | None,
    endpoint_url: str | None,
    verbose: bool,
) -> int:
    """Mount the volume at the URL VOLUME on DIRECTORY.

    The command returns when programs can use the mount; its process runs in the background.

    Example: cas3fs mount s3://bucket/volume /mnt/volume
    """
    from cas3fs.cli.socket_lookup import find_socket
    from cas3fs.fuse.mountpoints import check_mountpoint, mount_at

    _check_caches(caches, cache_size)
    snapshot = snapshot_selector(snapshot, at)
    if snapshot is not None and take_over:
        raise UsageError("--snapshot mounts read-only, so --take-over has no meaning with it")
    split = split_options((*options, "noacl") if no_acl else options)
    folders = find_local_folders(state_dir, cache_dir)
    if (already := mount_at(directory)) is not None:
        find_socket(already.mountpoint, folders)  # raises if its process is stopped; reading the directory would block
    mountpoint = check_mountpoint(directory, may_hold_files="nonempty" in split)
    _refuse_hiding(mountpoint, folders)
    writer = WriterSettings(
        read_only=read_only or snapshot is not None or "ro" in split,
        cache_size_bytes=_DEFAULTS.cache_size_bytes if cache_size is None else cache_size,
        caches=caches,
        encrypt_local=encrypt_local,
        staging_size_bytes=staging_size,
        snapshot_interval_s=snapshot_interval,
        gc_interval_s=gc_interval,
        snapshot=snapshot,
        take_over=take_over,
        fsync_remote=fsync_mode == "remote",
    )
    session = MountSettings(mountpoint, workers, frontend, split, writeback)
    store = store_settings(normal_url(volume), endpoint_url)
    return _serve(store, writer, session, folders, foreground=foreground, verbose=verbose)


def _check_caches(caches: tuple[str, ...], cache_size: int | None) -> None:
    """Raise UsageError if the list of caches is invalid."""
    from cas3fs.caches.registry import parse_caches

    if caches and cache_size is not None:
        raise UsageError("--cache-size and --cache exclude each other: use --cache disk:SIZE")
    parse_caches(caches)


def _refuse_hiding(mountpoint: Path, folders: LocalFolders) -> None:
    """Raise UsageError where the mount would hide the folders of its own process: both would wait for each other.

    The store is no such folder: it is reached through a descriptor, also below a mount.
    """
    own = {"state directory": (folders.state_dir, "--state-dir"), "cache directory": (folders.cache_dir, "--cache-dir")}
    for what, (path, option) in own.items():
        if Path(os.path.realpath(path)).is_relative_to(mountpoint):
            raise UsageError(
                f"the {what} {path} lies below the mount point {mountpoint}, which would hide it: "
                f"choose another with {option}"
            )


def _serve(
    store: StoreSettings,
    writer: WriterSettings,
    session: MountSettings,
    folders: LocalFolders,
    *,
    foreground: bool,
    verbose: bool,
) -> int:
    def work(ready: Ready) -> int:
        from cas3fs.commands.mount import serve_mount

        return serve_mount(
            _asking_through(ready, store),
            writer,
            session,
            folders,
            ready,
            verbose=verbose,
            log_to_file=not foreground,
            progress=ready.progress,
        )

    return run_in_foreground(work, verbose) if foreground else run_in_background(work)


def _asking_through(ready: Ready, store: StoreSettings) -> StoreSettings:
    """The settings with which a process without a terminal has its parent ask for the passphrase."""
    if ready.ask is None or store.secrets.ask is None:
        return store
    return attrs.evolve(store, secrets=attrs.evolve(store.secrets, ask=ready.ask))
