# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs mount``: mounts a volume, and returns when it serves."""

import os
from pathlib import Path

import click

from cas3fs.cli.background import Ready, run_in_background, run_in_foreground
from cas3fs.cli.common import (
    Duration,
    Size,
    folder_options,
    mount_store_options,
    normal_url,
    store_settings,
    verbose_option,
)
from cas3fs.config import LocalFolders, MountSettings, StoreSettings, WriterSettings, find_local_folders, split_options
from cas3fs.errors import UsageError
from cas3fs.units import GIB

DEFAULT_WORKERS = 8
MIN_WORKERS = 4


@click.command()
@click.argument("volume")
@click.argument("directory")  # no click.Path: that would stat a mount that may not answer
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to standard error.")
@click.option("--read-only", is_flag=True, help="Mount the newest snapshot, without claiming the volume.")
@click.option("--snapshot", metavar="ID", help="Mount that snapshot, read-only, beside the volume itself.")
@click.option(
    "--take-over", is_flag=True, help="Become the writer though another has not released the volume, which fences it."
)
@click.option("--cache-size", type=Size(), help="Size of the disk cache.  [default: 10GiB]")
@click.option(
    "--cache",
    "caches",
    multiple=True,
    metavar="CACHE",
    help="A cache, in place of the disk alone; repeat it, fastest first: memory:256MiB, disk:10GiB, "
    "memcached://HOST:11211,HOST2:11211, web+http://HOST/PATH.",
)
@click.option("--staging-size", type=Size(), default=4 * GIB, help="Data waiting for the store.  [default: 4GiB]")
@click.option(
    "--snapshot-interval", type=Duration(), default=300.0, help="Publish this often; 0: never.  [default: 5m]"
)
@click.option("--gc-interval", type=Duration(), default=0.0, help="Collect garbage this often.  [default: never]")
@click.option(
    "--fsync",
    "fsync_mode",
    type=click.Choice(["local", "remote"]),
    default="local",
    show_default=True,
    help="When fsync returns: on the local disk, or published in the store.",
)
@click.option("--workers", type=click.IntRange(MIN_WORKERS, 256), default=DEFAULT_WORKERS, show_default=True)
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="Mount options, separated by commas.")
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
    take_over: bool,
    cache_size: int | None,
    caches: tuple[str, ...],
    staging_size: int,
    snapshot_interval: float,
    gc_interval: float,
    fsync_mode: str,
    workers: int,
    options: tuple[str, ...],
    state_dir: str | None,
    cache_dir: str | None,
    endpoint_url: str | None,
    verbose: bool,
) -> int:
    """Mount the volume at the URL VOLUME on DIRECTORY, and return when it serves."""
    from cas3fs.caches.registry import parse_caches
    from cas3fs.cli.socket_lookup import find_socket
    from cas3fs.fuse.mountpoints import check_mountpoint, mount_at

    if caches and cache_size is not None:
        raise UsageError("--cache-size and --cache exclude each other: write --cache disk:SIZE")
    parse_caches(caches)
    if snapshot is not None and take_over:
        raise UsageError("--snapshot only reads, so it has nothing to take over")
    split = split_options(options)
    folders = find_local_folders(state_dir, cache_dir)
    if (already := mount_at(directory)) is not None:
        find_socket(already.mountpoint, folders)  # says so if its process is stopped, where a look into it would wait
    mountpoint = check_mountpoint(directory, may_hold_files="nonempty" in split)
    _refuse_hiding(mountpoint, folders)
    writer = WriterSettings(
        read_only=read_only or snapshot is not None or "ro" in split,
        cache_size_bytes=10 * GIB if cache_size is None else cache_size,
        caches=caches,
        staging_size_bytes=staging_size,
        snapshot_interval_s=snapshot_interval,
        gc_interval_s=gc_interval,
        snapshot=snapshot,
        take_over=take_over,
        fsync_remote=fsync_mode == "remote",
    )
    session = MountSettings(mountpoint, workers, split)
    return _serve(
        store_settings(normal_url(volume), endpoint_url),
        writer,
        session,
        folders,
        foreground=foreground,
        verbose=verbose,
    )


def _refuse_hiding(mountpoint: Path, folders: LocalFolders) -> None:
    """Raises UsageError where the mount would cover the folders of its own process: both would wait for each other.

    The store is no such folder: it is reached through a descriptor, also below a mount.
    """
    own = {"state folder": (folders.state_dir, "--state-dir"), "cache folder": (folders.cache_dir, "--cache-dir")}
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
            store,
            writer,
            session,
            folders,
            ready,
            verbose=verbose,
            log_to_file=not foreground,
            progress=ready.progress,
        )

    return run_in_foreground(work, verbose) if foreground else run_in_background(work)
