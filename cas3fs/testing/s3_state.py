# SPDX-License-Identifier: GPL-3.0-or-later
"""The server of the fake S3: buckets, objects and uploads in memory, and the rules of S3 about them.

It raises `S3Refusal` where S3 would refuse. Not thread-safe: the client's lock is held around every call.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from cas3fs.testing.s3_errors import S3Refusal

LONGEST_KEY_BYTES: Final = 1024
METADATA_BYTES: Final = 2048
MIN_PART_BYTES: Final = 5 * 1024 * 1024
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
    """A multipart upload under way."""

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
            raise S3Refusal("NoSuchKey", Key=key)
        return self.objects[key]

    def upload(self, key: str, upload_id: str) -> Upload:
        """The upload of that id, if it is to that key."""
        upload = self.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise S3Refusal("NoSuchUpload", UploadId=upload_id)
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
        """In whole seconds, as S3 tells it."""
        return self._now().replace(microsecond=0)

    def bucket(self, name: str) -> Bucket:
        """The bucket of that name."""
        if name not in self.buckets:
            raise S3Refusal("NoSuchBucket", BucketName=name)
        return self.buckets[name]

    def make_bucket(self, name: str, has_object_lock: bool = False) -> None:
        """Make a bucket; in us-east-1 one's own may be made again."""
        if not _BUCKET.match(name):
            raise S3Refusal("InvalidBucketName", "The specified bucket is not valid.")
        self.buckets.setdefault(name, Bucket(name, self.now, has_object_lock))

    def drop_bucket(self, name: str) -> None:
        """Remove an empty bucket."""
        if self.bucket(name).objects:
            raise S3Refusal("BucketNotEmpty", BucketName=name)
        del self.buckets[name]

    def new_object(self, body: bytes, metadata: Mapping[str, str], content_type: str, etag: str = "") -> StoredObject:
        """An object, not kept anywhere yet; names of metadata travel as headers, in lower case."""
        kept = {name.lower(): value for name, value in metadata.items()}
        if sum(len(name) + len(value) for name, value in kept.items()) > METADATA_BYTES:
            raise S3Refusal("MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size")
        return StoredObject(body, etag or quoted_md5(body), self.now, kept, content_type)

    def begin_upload(self, bucket: Bucket, key: str, metadata: Mapping[str, str], content_type: str) -> str:
        """The id of a new upload."""
        check_key(key)
        self._uploads += 1
        upload_id = f"upload-{self._uploads}"
        bucket.uploads[upload_id] = Upload(key, metadata, content_type, self.now)
        return upload_id

    def join_parts(self, upload: Upload, wanted: Iterable[Mapping[str, Any]]) -> StoredObject:
        """The object that the parts of an upload make, as the list given at its end tells."""
        numbers, bodies, digests = [], [], []
        for one in wanted:
            number, etag = one.get("PartNumber", 0), one.get("ETag", "")
            part = upload.parts.get(number)
            if part is None or part.etag.strip('"') != etag.strip('"'):
                raise S3Refusal("InvalidPart")
            numbers.append(number)
            bodies.append(part.body)
            digests.append(bytes.fromhex(part.etag.strip('"')))
        if not numbers:
            raise S3Refusal("MalformedXML", "You must specify at least one part")
        if numbers != sorted(set(numbers)):
            raise S3Refusal("InvalidPartOrder")
        if any(len(body) < self.min_part_bytes for body in bodies[:-1]):
            raise S3Refusal("EntityTooSmall")
        etag = f'"{_md5(b"".join(digests))}-{len(digests)}"'
        return self.new_object(b"".join(bodies), upload.metadata, upload.content_type, etag)


def check_key(key: str) -> None:
    """Refuse what is too long to be a key."""
    if len(key.encode()) > LONGEST_KEY_BYTES:
        raise S3Refusal("KeyTooLongError", "Your key is too long")


def check_digests(bucket: Bucket, body: bytes, md5: str, sha256: str) -> None:
    """Refuse a body that does not have the digests, in base64, that were sent with it, or has to have one."""
    if bucket.has_object_lock and not (md5 or sha256):
        header = "Content-MD5 OR x-amz-checksum- HTTP header"
        raise S3Refusal("InvalidRequest", f"{header} is required for Put Object requests with Object Lock parameters")
    for claimed, digest in ((md5, hashlib.md5(body, usedforsecurity=False)), (sha256, hashlib.sha256(body))):
        if claimed and claimed != base64.b64encode(digest.digest()).decode():
            raise S3Refusal("BadDigest")


def check_conditions(found: StoredObject | None, if_match: str | None, if_none_match: str | None, key: str) -> None:
    """Refuse a write whose conditions do not hold."""
    if if_none_match is not None:
        if if_none_match != "*":
            raise S3Refusal("InvalidArgument", "If-None-Match takes nothing but * here")
        if found is not None:
            raise S3Refusal("PreconditionFailed", Condition="If-None-Match")
    if if_match is not None:
        if found is None:
            raise S3Refusal("NoSuchKey", Key=key)
        if not _matches(found, if_match):
            raise S3Refusal("PreconditionFailed", Condition="If-Match")


def check_read_conditions(found: StoredObject, if_match: str | None, if_none_match: str | None) -> None:
    """Refuse a read whose conditions do not hold."""
    if if_match is not None and not _matches(found, if_match):
        raise S3Refusal("PreconditionFailed", Condition="If-Match")
    if if_none_match is not None and _matches(found, if_none_match):
        raise S3Refusal("304")


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of ``bytes=...``; None where S3 gives the whole object."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
        if int(last) == 0:
            raise S3Refusal("InvalidRange", RangeRequested=text)
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        raise S3Refusal("InvalidRange", RangeRequested=text, ActualObjectSize=str(size))
    return start, end


def quoted_md5(body: bytes) -> str:
    """The ETag of a body."""
    return f'"{_md5(body)}"'


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def _matches(found: StoredObject, etag: str) -> bool:
    return etag == "*" or etag.strip('"') == found.etag.strip('"')
