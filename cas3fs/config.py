# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings: what a user can choose, as frozen values.

Vocabulary: the *local folders* are the two folders of this machine that cas3fs uses: the state directory holds what
must not be lost, the cache folder what may vanish at any time.

This module does not know of volumes, stores or mounts; the subpackages that do are passed the values.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from cas3fs.units import GIB, MIB

STATE_VARIABLE = "CAS3FS_STATE_DIR"
PASSPHRASE_VARIABLE = "CAS3FS_PASSPHRASE"
PASSPHRASE_COMMAND_VARIABLE = "CAS3FS_PASSPHRASE_COMMAND"
PASSPHRASE_FILE_VARIABLE = "CAS3FS_PASSPHRASE_FILE"
KEY_FILE_VARIABLE = "CAS3FS_KEY_FILE"
KMS_KEY_VARIABLE = "CAS3FS_KMS_KEY"
CACHE_VARIABLE = "CAS3FS_CACHE_DIR"


@attrs.frozen
class LocalFolders:
    """The two folders of this machine; below them each volume has its own, named by its uuid.

    Where several places have volumes of one uuid, each has its own state directory (`cas3fs.volume.location`).
    """

    state_dir: Path
    cache_dir: Path

    def state_of(self, volume_uuid: str) -> Path:
        """The state directory of one volume at one place."""
        return self.state_dir / volume_uuid

    def cache_of(self, volume_uuid: str) -> Path:
        """The folder of the cached blocks of one volume."""
        return self.cache_dir / volume_uuid / "blocks"


def find_local_folders(
    state_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> LocalFolders:
    """The folders: as given, else as the environment says, else where the platform keeps such things. Absolute."""
    import platformdirs

    state = state_dir or environment.get(STATE_VARIABLE) or platformdirs.user_state_dir("cas3fs", appauthor=False)
    cache = cache_dir or environment.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("cas3fs", appauthor=False)
    return LocalFolders(Path(state).absolute(), Path(cache).absolute())


@attrs.frozen
class SecretSettings:
    """Where the secret that opens an encrypted volume comes from; the first that is given counts.

    Where nothing is given, the environment is asked (`PASSPHRASE_COMMAND_VARIABLE` and others), and then the terminal.
    """

    passphrase_file: Path | None = None
    key_file: Path | None = None
    kms_key: str | None = None
    """The name (ARN) of a key of AWS KMS."""
    ask: Callable[[str], str] | None = attrs.field(default=None, repr=False, eq=False)
    """Asks at the terminal; None where there is none."""
    ask_new: Callable[[str], str] | None = attrs.field(default=None, repr=False, eq=False)
    """Asks for a new passphrase, twice."""
    read: dict[str, Any] = attrs.field(factory=dict, repr=False, eq=False)
    """The secrets that were read in this process, so that nobody is asked twice."""

    @property
    def is_given(self) -> bool:
        """Whether the command line names a secret."""
        return any(one is not None for one in (self.passphrase_file, self.key_file, self.kms_key))


@attrs.frozen
class ExpectedState:
    """What a volume has to be when it is opened (`cas3fs.volume.seen`)."""

    state_dir: Path | None = None
    """Where this machine records what it has seen of encrypted volumes; None: nowhere."""
    accept_rollback: bool = False
    """An older state, or another volume, than this machine has seen is accepted."""
    fingerprint: str | None = None
    """Of the root; None: any."""
    snapshot: str | None = None
    """The volume has that snapshot or a later one; None: any."""


@attrs.frozen
class StoreSettings:
    """How to reach the object store, and how much of its bandwidth to use.

    Where endpoint, keys and region are None, boto3 finds them: environment, profile, instance.
    """

    url: str
    endpoint_url: str | None = None
    access_key: str | None = None
    secret_key: str | None = attrs.field(default=None, repr=False)
    region: str | None = None
    profile: str | None = None
    """Of AWS's configuration, in place of the one that boto3 finds."""
    max_concurrency: int = 32
    """How many requests may run at once."""
    timeout_s: float | None = None
    """For how long a request that fails is tried again; None: long enough to bridge a short outage."""
    first_response_s: float | None = None
    """The same, until the store has responded for the first time; it has no effect beside `timeout_s`."""
    secrets: SecretSettings = attrs.field(factory=SecretSettings)
    """Where the secret of an encrypted volume comes from."""
    upload_bytes_per_s: float | None = None
    """None: no limit."""
    download_bytes_per_s: float | None = None
    expected: ExpectedState = ExpectedState()
    """What is there, as far as it is known."""

    def recorded_in(self, folders: LocalFolders) -> "StoreSettings":
        """The settings with which what is seen of the volume is recorded in the state directory."""
        return attrs.evolve(self, expected=attrs.evolve(self.expected, state_dir=folders.state_dir))

    @property
    def until_first_response(self) -> "StoreSettings":
        """The settings that hold until the store has responded for the first time."""
        return self if self.timeout_s is not None else attrs.evolve(self, timeout_s=self.first_response_s)


@attrs.frozen
class VolumeSettings:
    """What is decided when a volume is made, for good."""

    chunker: str = "fastcdc"
    block_size_bytes: int = MIB
    pack_size_bytes: int = 16 * MIB
    compression: str = "zstd:3"
    label: str = ""
    allow_unfenced: bool = False
    group_readable: bool = False
    """For a store in a directory: its group may read it."""
    encrypt: bool = False


@attrs.frozen
class WriterSettings:
    """How much of this machine an open volume may use, and how often it publishes."""

    read_only: bool = False
    cache_size_bytes: int = 10 * GIB
    """Of the disk cache, if `caches` is empty."""
    caches: tuple[str, ...] = ()
    """The list of caches, fastest first (`cas3fs.caches.registry`); empty: the disk cache alone."""
    encrypt_local: bool = False
    """Seal the disk cache of an encrypted volume."""
    memory_cache_bytes: int = 48 * MIB
    staging_size_bytes: int = 4 * GIB
    staging_memory_bytes: int = 64 * MIB
    snapshot_interval_s: float = 60.0
    gc_interval_s: float = 0.0
    """How often a mount collects garbage; 0: never."""
    snapshot: str | None = None
    """The snapshot that a read-only mount shows, as `cas3fs.snapshots.selection` has it; None: the newest."""
    take_over: bool = False
    """Claim the volume although another writer has not released it."""
    fsync_remote: bool = False
    """fsync returns when a snapshot with the written data is published."""


FRONTENDS = ("auto", "kernel", "llfuse")


@attrs.frozen
class MountSettings:
    """How the kernel sees the volume."""

    mountpoint: Path
    workers: int = 8
    frontend: str = "auto"
    """What speaks with the kernel: ``kernel`` (our own, which ``auto`` takes too) or ``llfuse``."""
    options: tuple[str, ...] = ()
    """The arguments of ``-o``, split at commas."""
    writeback: bool = False
    """The kernel's page cache collects what programs write."""


_OPTION = re.compile(r'(?:[^,"]|"[^"]*"?)+')
_OPPOSITES = MappingProxyType({"rw": "ro", "async": "sync"})


def split_options(values: tuple[str, ...]) -> tuple[str, ...]:
    """The single mount options of all ``-o`` arguments, in order.

    As with mount(8), the last one counts of those that contradict each other, and a comma between double quotes
    separates nothing.
    """
    last: dict[str, str] = {}
    for option in (option for value in values for option in _OPTION.findall(value)):
        name = _subject_of(option)
        last.pop(name, None)
        last[name] = option
    return tuple(last.values())


def _subject_of(option: str) -> str:
    """The subject of an option, which is the same for ``dev`` and ``nodev``."""
    name = option.partition("=")[0]
    return _OPPOSITES.get(name) or name.removeprefix("no")
