# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening the store at a URL, with the wrappers that every store gets."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

from cas3fs.config import StoreSettings
from cas3fs.errors import UsageError
from cas3fs.metrics import Metrics
from cas3fs.objectstores.base import ObjectStore
from cas3fs.objectstores.directory import DirectoryStore
from cas3fs.objectstores.memory import MemoryStore
from cas3fs.objectstores.wrappers import (
    BandwidthLimitedStore,
    ConcurrencyLimitedStore,
    MeasuredStore,
    RetryingStore,
    RetryPolicy,
)

FORMS: Final = "s3://BUCKET/PREFIX or file:///DIRECTORY"
_BUCKET: Final = re.compile(r"[a-zA-Z0-9._-]{3,255}\Z")
_MAX_PREFIX_LENGTH: Final = 400


class StoreUrl(NamedTuple):
    """The parts of a URL."""

    scheme: str
    """``s3``, ``file`` or ``memory``."""
    place: str
    """A bucket, an absolute path without a final slash, or any name."""
    prefix: str = ""
    """Of all keys in the bucket; without a slash at either end."""

    def __str__(self) -> str:
        if self.scheme == "file":
            return Path(self.place).as_uri()
        return f"{self.scheme}://{self.place}/{self.prefix}" if self.prefix else f"{self.scheme}://{self.place}"

    def parents(self) -> Iterator[tuple["StoreUrl", str]]:
        """The places that contain this one, innermost first, each with the first part of the path to this one."""
        if self.scheme == "file":
            here = Path(self.place)
            for inner, outer in zip((here, *here.parents), here.parents, strict=False):
                yield self._replace(place=str(outer)), inner.name
            return
        parts = self.prefix.split("/") if self.prefix else []
        for depth in reversed(range(len(parts))):
            yield self._replace(prefix="/".join(parts[:depth])), parts[depth]


def parse_url(url: str) -> StoreUrl:
    """The parts of `url`, in one spelling: superfluous slashes are dropped; the path of a file is percent-decoded.

    Raises:
        UsageError: it is not the URL of a store.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "s3":
        return _parse_s3(url, rest)
    if separator and scheme == "file":
        return _parse_file(url, rest)
    if separator and scheme == "memory":
        return StoreUrl("memory", rest)
    hint = f"; did you mean {Path(url).absolute().as_uri()} ?" if url.startswith(("/", ".")) else ""
    raise UsageError(f"{url!r} is not the URL of a volume, which is {FORMS}{hint}")


def open_store(settings: StoreSettings, metrics: Metrics, retry: RetryPolicy | None = None) -> ObjectStore:
    """The store at `settings.url`, with all wrappers around it; nothing is asked of an S3 server yet.

    Args:
        settings: how to reach it.
        metrics: where requests are counted.
        retry: in place of the policy that follows from `settings`.

    Raises:
        UsageError: the URL names no store.
        StoreMissing: there is no such directory.
        AccessDenied: the directory may not be opened.
    """
    store: ObjectStore = MeasuredStore(_open_bare(parse_url(settings.url), settings), metrics)
    store = ConcurrencyLimitedStore(store, settings.max_concurrency)
    if settings.upload_bytes_per_s or settings.download_bytes_per_s:
        store = BandwidthLimitedStore(store, settings.upload_bytes_per_s, settings.download_bytes_per_s)
    return RetryingStore(store, retry or _retry_policy(settings), metrics)


def _retry_policy(settings: StoreSettings) -> RetryPolicy:
    if settings.timeout_s is not None:
        return RetryPolicy(deadline_s=settings.timeout_s)
    if settings.first_response_s is not None:
        return RetryPolicy(first_response_s=settings.first_response_s)
    return RetryPolicy()


def _open_bare(where: StoreUrl, settings: StoreSettings) -> ObjectStore:
    if where.scheme == "memory":
        return MemoryStore(where.place)
    if where.scheme == "file":
        return DirectoryStore(Path(where.place))
    from cas3fs.objectstores.s3 import S3Store  # boto3 takes long to import, and only a bucket needs it

    return S3Store(where.place, where.prefix, settings)


def _parse_s3(url: str, rest: str) -> StoreUrl:
    bucket, _, path = rest.partition("/")
    parts = [part for part in path.split("/") if part]
    if not _BUCKET.match(bucket):
        raise UsageError(f"{url!r} has no valid bucket: write s3://BUCKET/PREFIX")
    prefix = "/".join(parts)
    if {".", ".."} & set(parts) or not prefix.isprintable() or len(prefix.encode()) > _MAX_PREFIX_LENGTH:
        raise UsageError(f"{url!r} has a prefix that is too long or has invalid characters")
    return StoreUrl("s3", bucket, prefix)


def _parse_file(url: str, rest: str) -> StoreUrl:
    host, slash, path = rest.partition("/")
    if not slash or host not in ("", "localhost"):
        raise UsageError(f"{url!r} is not a directory of this machine: write file:///ABSOLUTE/PATH")
    return StoreUrl("file", str(Path(f"/{unquote(path).lstrip('/')}")))
