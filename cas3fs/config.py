# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings: what a user can choose, as frozen values, and the way from text to them.

Vocabulary: a *size* is bytes, written as ``10GiB``, ``512M`` (both powers of 1024) or ``5GB`` (powers of 1000); a
*duration* is seconds, written as ``90s``, ``5m``, ``1h``, ``1d``; the *places* are the two folders of this machine in
which cas3fs keeps things: the state folder holds what must not be lost, the cache folder what may vanish at any time.

Knows nothing of volumes, stores or mounts; assembly hands the values on.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from cas3fs.errors import UsageError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

STATE_VARIABLE = "CAS3FS_STATE_DIR"
CACHE_VARIABLE = "CAS3FS_CACHE_DIR"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b?)", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_size(text: str) -> int:
    """Bytes that `text` stands for: ``4096``, ``512K``, ``1MiB``, ``1.5GiB``; a unit with a lone B is a power of 1000.

    Raises:
        UsageError: `text` is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size; write it as 512KiB, 64MiB or 10GiB")
    number, unit, suffix = match.groups()
    base = 1000 if unit and suffix.lower() == "b" else 1024
    return int(float(number) * base ** ("kmgtp".index(unit.lower()) + 1 if unit else 0))


def parse_duration(text: str) -> float:
    """Seconds that `text` stands for: ``30``, ``30s``, ``5m``, ``1h``, ``250ms``.

    Raises:
        UsageError: `text` is no duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a duration; write it as 30s, 5m or 1h")
    return float(match.group(1)) * _SECONDS[match.group(2)]


def format_size(size_bytes: float) -> str:
    """`size_bytes` for people: ``17 B``, ``1.5 MiB``."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


@attrs.frozen
class Places:
    """The two folders of this machine; each volume has one of its own below, named by the volume's uuid."""

    state_dir: Path
    cache_dir: Path

    def state_of(self, volume_uuid: str) -> Path:
        """Where the state of one volume lies."""
        return self.state_dir / volume_uuid

    def cache_of(self, volume_uuid: str) -> Path:
        """Where the cached blocks of one volume lie."""
        return self.cache_dir / volume_uuid / "blocks"


def find_places(
    state_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Places:
    """The places: as given, else as the environment says, else where the platform keeps such things. Absolute."""
    import platformdirs

    state = state_dir or environment.get(STATE_VARIABLE) or platformdirs.user_state_dir("cas3fs", appauthor=False)
    cache = cache_dir or environment.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("cas3fs", appauthor=False)
    return Places(Path(state).absolute(), Path(cache).absolute())


@attrs.frozen
class StoreSettings:
    """How to reach the object store."""

    url: str
    endpoint_url: str | None = None
    max_concurrency: int = 32


@attrs.frozen
class VolumeSettings:
    """What is fixed when a volume is made."""

    chunker: str = "fastcdc"
    block_size_bytes: int = MIB
    pack_size_bytes: int = 16 * MIB
    compression: str = "zstd:3"
    label: str = ""
    allow_unfenced: bool = False


@attrs.frozen
class WriterSettings:
    """How much of this machine an open volume may use, and how often it publishes."""

    read_only: bool = False
    cache_size_bytes: int = 10 * GIB
    memory_cache_bytes: int = 32 * MIB
    staging_size_bytes: int = 4 * GIB
    staging_memory_bytes: int = 32 * MIB
    snapshot_interval_s: float = 300.0


@attrs.frozen
class MountSettings:
    """How the kernel sees the volume."""

    mountpoint: Path
    workers: int = 16
    options: tuple[str, ...] = ()
    """What stood behind ``-o``, split at commas."""


def split_options(values: tuple[str, ...]) -> tuple[str, ...]:
    """The single mount options of all ``-o`` arguments, in order, empty ones dropped."""
    return tuple(option for value in values for option in value.split(",") if option)
