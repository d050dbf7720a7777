# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of the fake S3: buckets, objects and uploads in memory, and the rules of S3 about them.

It raises `S3Error` where S3 responds with an error. It is not thread-safe: the client holds its lock around every call.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from cas3fs.testing.fake_s3_errors import S3Error

MAX_KEY_BYTES: Final = 1024
METADATA_BYTES: Final = 2048
MIN_PART_BYTES: Final = 5 * 1024 * 1024
_TOKEN_PREFIX: Final = "after:"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")


@attrs.frozen
class StoredObject:
    """An object as it was put."""

    body: bytes
    etag: str
    """In quotes."""
    modified: datetime
    metadata: Mapping[str, str]
    content_type: str


@attrs.define
class Upload:
    """A multipart upload in progress."""

    key: str
    metadata: Mapping[str, str]
    content_type: str
    initiated: datetime
    parts: dict[int, StoredObject] = attrs.field(factory=dict)


@attrs.define
class Bucket:
    """A bucket."""

    name: str
    created: datetime
    has_object_lock: bool = False
    objects: dict[str, StoredObject] = attrs.field(factory=dict)
    uploads: dict[str, Upload] = attrs.field(factory=dict)

    def object(self, key: str) -> StoredObject:
        """The object of that key."""
        if key not in self.objects:
            raise S3Error("NoSuchKey", Key=key)
        return self.objects[key]

    def upload(self, key: str, upload_id: str) -> Upload:
        """The upload of that id, if it is of that key."""
        upload = self.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise S3Error("NoSuchUpload", UploadId=upload_id)
        return upload


class S3State:
    """All buckets; `now` is the server's clock."""

    def __init__(self, min_part_bytes: int = MIN_PART_BYTES, now: Callable[[], datetime] | None = None) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.min_part_bytes = min_part_bytes
        self._now = now or (lambda: datetime.now(UTC))
        self._uploads = 0

    @property
    def now(self) -> datetime:
        """The time in whole seconds, as in S3's responses."""
        return self._now().replace(microsecond=0)

    def bucket(self, name: str) -> Bucket:
        """The bucket of that name."""
        if name not in self.buckets:
            raise S3Error("NoSuchBucket", BucketName=name)
        return self.buckets[name]

    def make_bucket(self, name: str, has_object_lock: bool = False) -> None:
        """Make a bucket; in us-east-1 that succeeds also where one owns it already."""
        if not _BUCKET.match(name):
            raise S3Error("InvalidBucketName", "The specified bucket is not valid.")
        self.buckets.setdefault(name, Bucket(name, self.now, has_object_lock))

    def drop_bucket(self, name: str) -> None:
        """Remove an empty bucket."""
        if self.bucket(name).objects:
            raise S3Error("BucketNotEmpty", BucketName=name)
        del self.buckets[name]

    def new_object(self, body: bytes, metadata: Mapping[str, str], content_type: str, etag: str = "") -> StoredObject:
        """A new object, not yet stored; the names of its metadata are headers, in lower case."""
        kept = {name.lower(): value for name, value in metadata.items()}
        if sum(len(name) + len(value) for name, value in kept.items()) > METADATA_BYTES:
            raise S3Error("MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size")
        return StoredObject(body, etag or quoted_md5(body), self.now, kept, content_type)

    def begin_upload(self, bucket: Bucket, key: str, metadata: Mapping[str, str], content_type: str) -> str:
        """The id of a new upload."""
        check_key(key)
        self._uploads += 1
        upload_id = f"upload-{self._uploads}"
        bucket.uploads[upload_id] = Upload(key, metadata, content_type, self.now)
        return upload_id

    def join_parts(self, upload: Upload, wanted: Iterable[Mapping[str, Any]]) -> StoredObject:
        """The object made of the `wanted` parts of an upload."""
        numbers, bodies, digests = [], [], []
        for one in wanted:
            number, etag = one.get("PartNumber", 0), one.get("ETag", "")
            part = upload.parts.get(number)
            if part is None or part.etag.strip('"') != etag.strip('"'):
                raise S3Error("InvalidPart")
            numbers.append(number)
            bodies.append(part.body)
            digests.append(bytes.fromhex(part.etag.strip('"')))
        if not numbers:
            raise S3Error("MalformedXML", "You must specify at least one part")
        if numbers != sorted(set(numbers)):
            raise S3Error("InvalidPartOrder")
        if any(len(body) < self.min_part_bytes for body in bodies[:-1]):
            raise S3Error("EntityTooSmall")
        etag = f'"{_md5(b"".join(digests))}-{len(digests)}"'
        return self.new_object(b"".join(bodies), upload.metadata, upload.content_type, etag)


def check_key(key: str) -> None:
    """Reject a key that is too long."""
    if len(key.encode()) > MAX_KEY_BYTES:
        raise S3Error("KeyTooLongError", "Your key is too long")


def check_digests(bucket: Bucket, body: bytes, md5: str, sha256: str) -> None:
    """Reject a body that does not match the digests (in base64) sent with it, or that lacks a required one."""
    if bucket.has_object_lock and not (md5 or sha256):
        header = "Content-MD5 OR x-amz-checksum- HTTP header"
        raise S3Error("InvalidRequest", f"{header} is required for Put Object requests with Object Lock parameters")
    for claimed, digest in ((md5, hashlib.md5(body, usedforsecurity=False)), (sha256, hashlib.sha256(body))):
        if claimed and claimed != base64.b64encode(digest.digest()).decode():
            raise S3Error("BadDigest")


def check_conditions(found: StoredObject | None, if_match: str | None, if_none_match: str | None, key: str) -> None:
    """Reject a write whose conditions do not hold."""
    if if_none_match is not None:
        if if_none_match != "*":
            raise S3Error("InvalidArgument", "If-None-Match takes nothing but * here")
        if found is not None:
            raise S3Error("PreconditionFailed", Condition="If-None-Match")
    if if_match is not None:
        if found is None:
            raise S3Error("NoSuchKey", Key=key)
        if not _matches(found, if_match):
            raise S3Error("PreconditionFailed", Condition="If-Match")


def check_read_conditions(found: StoredObject, if_match: str | None, if_none_match: str | None) -> None:
    """Reject a read whose conditions do not hold."""
    if if_match is not None and not _matches(found, if_match):
        raise S3Error("PreconditionFailed", Condition="If-Match")
    if if_none_match is not None and _matches(found, if_none_match):
        raise S3Error("304")


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Start and end of a range ``bytes=...``; None where S3 sends the whole object."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
        if int(last) == 0:
            raise S3Error("InvalidRange", RangeRequested=text)
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        raise S3Error("InvalidRange", RangeRequested=text, ActualObjectSize=str(size))
    return start, end


def quoted_md5(body: bytes) -> str:
    """The ETag of a body."""
    return f'"{_md5(body)}"'


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def _matches(found: StoredObject, etag: str) -> bool:
    return etag == "*" or etag.strip('"') == found.etag.strip('"')


def list_objects(
    objects: Mapping[str, StoredObject],
    bucket: str,
    *,
    Prefix: str = "",
    Delimiter: str = "",
    StartAfter: str = "",
    ContinuationToken: str = "",
    MaxKeys: int = 1000,
    EncodingType: str = "",
    FetchOwner: bool = False,
) -> dict[str, Any]:
    """A page of ListObjectsV2, without the response's metadata; keys ascend by their bytes."""
    if ContinuationToken and not ContinuationToken.startswith(_TOKEN_PREFIX):
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect")
    after = ContinuationToken.removeprefix(_TOKEN_PREFIX) or StartAfter
    limit = min(MaxKeys, 1000)
    found, more = _select_keys(objects, Prefix, Delimiter, after, limit)
    answer: dict[str, Any] = {
        "Name": bucket,
        "Prefix": Prefix,
        "MaxKeys": MaxKeys,
        "KeyCount": len(found),
        "IsTruncated": more,
    }
    contents = [_listed_object(name, objects[name]) for name, is_group in found if not is_group]
    groups = [{"Prefix": name} for name, is_group in found if is_group]
    optional = {"Contents": contents, "CommonPrefixes": groups, "Delimiter": Delimiter, "StartAfter": StartAfter}
    optional["ContinuationToken"] = ContinuationToken
    if more and found:
        optional["NextContinuationToken"] = _TOKEN_PREFIX + found[-1][0]
    return answer | {name: value for name, value in optional.items() if value}


def _select_keys(
    objects: Mapping[str, StoredObject], prefix: str, delimiter: str, after: str, limit: int
) -> tuple[list[tuple[str, bool]], bool]:
    """Up to `limit` keys after `after`, each with whether it is a common prefix; and whether there are more."""
    found: list[tuple[str, bool]] = []
    for key in sorted(objects, key=str.encode):
        if not key.startswith(prefix):
            continue
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        line = (key, False) if end < 0 else (key[: end + len(delimiter)], True)
        if line[0].encode() <= after.encode() or (found and found[-1] == line):
            continue
        if len(found) == limit:
            return found, limit > 0
        found.append(line)
    return found, False


def _listed_object(key: str, found: StoredObject) -> dict[str, Any]:
    return {
        "Key": key,
        "LastModified": found.modified,
        "ETag": found.etag,
        "Size": len(found.body),
        "StorageClass": "STANDARD",
    }
