# SPDX-License-Identifier: GPL-3.0-or-later
"""A fake of boto3's S3 client, as far as an object store needs it, without a network.

The methods have the names, parameters, responses, exceptions and error codes of the real client: parameters are checked
against botocore's own description of the service, and errors are its own classes. Everything else (ACLs, versions,
tags, presigned URLs ...) is an AttributeError or a TypeError.

Faults (`faults`) can be switched on at any time (`cas3fs.testing.faults`). Locks: one, around the state; it is not held
during delays.
"""

import io
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Final, cast

import attrs

from cas3fs.testing.fake_s3_errors import ENDPOINT, S3Error, S3Service, broken_connection, metadata
from cas3fs.testing.fake_s3_state import (
    MIN_PART_BYTES,
    Bucket,
    S3State,
    StoredObject,
    check_conditions,
    check_digests,
    check_key,
    check_read_conditions,
    list_objects,
    parse_range,
)
from cas3fs.testing.faults import FaultKind, Faults

Answer = dict[str, Any]
_CONTENT_TYPE: Final = "binary/octet-stream"
HTML_PAGE: Final = b"<html><body>Please log in to use the network.</body></html>"
"""The response of a proxy in place of the server."""
_DELETE_LIMIT: Final = 1000
_READ_ONLY: Final = ("Get", "Head", "List")


class FakeS3:
    """A client with its own server, which has `buckets` at the beginning."""

    def __init__(
        self,
        *buckets: str,
        min_part_bytes: int = MIN_PART_BYTES,
        now: Callable[[], datetime] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._service = S3Service()
        self._state = S3State(min_part_bytes, now)
        self._lock = threading.RLock()
        self._sleep = sleep
        self.faults = Faults(listed=self._copy_of_names)
        self.exceptions = self._service.exceptions
        self.meta = SimpleNamespace(
            endpoint_url=ENDPOINT, region_name="us-east-1", service_model=self._service.model, partition="aws"
        )
        for bucket in buckets:
            self._state.make_bucket(bucket)

    def close(self) -> None:
        """There is nothing to close; the state is kept."""

    def get_paginator(self, operation_name: str) -> Any:
        """botocore's paginator over one of the methods that list."""
        return self._service.paginator(operation_name, getattr(self, operation_name))

    # Buckets

    def create_bucket(self, **parameters: Any) -> Answer:
        """Bucket, ObjectLockEnabledForBucket: puts then need a checksum; CreateBucketConfiguration means nothing."""

        def create(
            *, Bucket: str, CreateBucketConfiguration: object = None, ObjectLockEnabledForBucket: bool = False
        ) -> Answer:
            self._state.make_bucket(Bucket, ObjectLockEnabledForBucket)
            return {"Location": f"/{Bucket}"}

        return self._call("CreateBucket", create, parameters)

    def delete_bucket(self, **parameters: Any) -> Answer:
        """Bucket, which has to be empty."""

        def delete(*, Bucket: str) -> Answer:
            self._state.drop_bucket(Bucket)
            return {}

        return self._call("DeleteBucket", delete, parameters, status=204)

    def head_bucket(self, **parameters: Any) -> Answer:
        """Bucket."""

        def head(*, Bucket: str) -> Answer:
            self._state.bucket(Bucket)
            return {"BucketRegion": "us-east-1"}

        return self._call("HeadBucket", head, parameters)

    def list_buckets(self, **parameters: Any) -> Answer:
        """All of them."""

        def list_all() -> Answer:
            buckets = sorted(self._state.buckets.values(), key=lambda one: one.name)
            listed = [{"Name": one.name, "CreationDate": one.created} for one in buckets]
            return {"Buckets": listed, "Owner": {"ID": "fake"}}

        return self._call("ListBuckets", list_all, parameters)

    # Objects

    def put_object(self, **parameters: Any) -> Answer:
        """Bucket, Key, Body, Metadata, ContentType, IfNoneMatch, IfMatch, ContentMD5, ChecksumSHA256."""

        def put(
            *,
            Bucket: str,
            Key: str,
            Body: Any = b"",
            Metadata: Mapping[str, str] = {},
            ContentType: str = _CONTENT_TYPE,
            IfNoneMatch: str | None = None,
            IfMatch: str | None = None,
            ContentLength: int | None = None,
            ContentMD5: str = "",
            ChecksumSHA256: str = "",
        ) -> Answer:
            bucket = self._state.bucket(Bucket)
            check_key(Key)
            body = self._receive(Key, _bytes_of(Body)[:ContentLength], bool(ChecksumSHA256))
            check_digests(bucket, body, ContentMD5, ChecksumSHA256)
            made = self._state.new_object(body, Metadata, ContentType)
            self._store_object(bucket, "put_object", Key, made, (IfMatch, IfNoneMatch))
            return {"ETag": made.etag} | ({"ChecksumSHA256": ChecksumSHA256} if ChecksumSHA256 else {})

        return self._call("PutObject", put, parameters)

    def get_object(self, **parameters: Any) -> Answer:
        """Bucket, Key, Range, IfMatch, IfNoneMatch; Body is botocore's StreamingBody."""

        def get(
            *, Bucket: str, Key: str, Range: str = "", IfMatch: str | None = None, IfNoneMatch: str | None = None
        ) -> Answer:
            found = self._find(Bucket, Key, "get_object")
            check_read_conditions(found, IfMatch, IfNoneMatch)
            part = parse_range(Range, len(found.body)) if Range else None
            start, end = part or (0, len(found.body))
            answer = _description(found) | {"ContentLength": end - start}
            if part:
                answer |= {"ContentRange": f"bytes {start}-{end - 1}/{len(found.body)}", "ResponseMetadata": 206}
            cut = self.faults.trigger(FaultKind.TRUNCATED, "get_object", Key)
            sent = found.body[start : start + (end - start) // 2] if cut else found.body[start:end]
            return answer | {"Body": _streaming_body(sent, end - start)}

        return self._call("GetObject", get, parameters)

    def head_object(self, **parameters: Any) -> Answer:
        """Bucket, Key, IfMatch, IfNoneMatch."""

        def head(*, Bucket: str, Key: str, IfMatch: str | None = None, IfNoneMatch: str | None = None) -> Answer:
            found = self._find(Bucket, Key, "head_object")
            check_read_conditions(found, IfMatch, IfNoneMatch)
            return _description(found) | {"ContentLength": len(found.body)}

        return self._call("HeadObject", head, parameters)

    def delete_object(self, **parameters: Any) -> Answer:
        """Bucket, Key; a missing key is fine."""

        def delete(*, Bucket: str, Key: str) -> Answer:
            if self.faults.trigger(FaultKind.DELETION_REFUSED, "delete_object", Key):
                raise S3Error("AccessDenied")
            self._state.bucket(Bucket).objects.pop(Key, None)
            return {}

        return self._call("DeleteObject", delete, parameters, status=204)

    def delete_objects(self, **parameters: Any) -> Answer:
        """Bucket, Delete; up to 1000 keys, missing ones are fine."""

        def delete(*, Bucket: str, Delete: Mapping[str, Any]) -> Answer:
            objects = self._state.bucket(Bucket).objects
            keys = [one["Key"] for one in Delete["Objects"]]
            if not 1 <= len(keys) <= _DELETE_LIMIT:
                raise S3Error("MalformedXML", "The XML you provided was not well-formed")
            kept = self.faults.trigger_on_keys(FaultKind.DELETION_REFUSED, "delete_objects", keys)
            gone = [key for key in keys if key not in kept]
            for key in gone:
                objects.pop(key, None)
            deleted = [] if Delete.get("Quiet") else [{"Key": key} for key in gone]
            errors = [{"Key": key, "Code": "AccessDenied", "Message": "Access Denied"} for key in keys if key in kept]
            return {name: keys for name, keys in (("Deleted", deleted), ("Errors", errors)) if keys}

        return self._call("DeleteObjects", delete, parameters)

    def list_objects_v2(self, **parameters: Any) -> Answer:
        """Bucket, Prefix, Delimiter, StartAfter, ContinuationToken, MaxKeys."""

        def list_page(*, Bucket: str, **options: Any) -> Answer:
            prefix = options.get("Prefix", "")
            objects = self.faults.as_listed(
                "list_objects_v2",
                prefix,
                self._state.bucket(Bucket).objects,
                lambda fault: cast(Mapping[str, Any], fault.moment).get(Bucket, {}),
            )
            short = self.faults.trigger_on_keys(FaultKind.SHORTENED, "list_objects_v2", objects)
            seen = {key: _shortened(one) if key in short else one for key, one in objects.items()}
            answer = list_objects(seen, Bucket, **options)
            if self.faults.trigger(FaultKind.LISTING_ENDS_EARLY, "list_objects_v2", prefix):
                kept = answer.get("Contents", [])[: len(answer.get("Contents", [])) // 2]
                answer |= {"IsTruncated": False, "KeyCount": len(kept), "Contents": kept}
                answer.pop("NextContinuationToken", None)
            return answer

        return self._call("ListObjectsV2", list_page, parameters)

    # Multipart uploads

    def create_multipart_upload(self, **parameters: Any) -> Answer:
        """Bucket, Key, Metadata, ContentType."""

        def create(
            *, Bucket: str, Key: str, Metadata: Mapping[str, str] = {}, ContentType: str = _CONTENT_TYPE
        ) -> Answer:
            upload_id = self._state.begin_upload(self._state.bucket(Bucket), Key, Metadata, ContentType)
            return {"Bucket": Bucket, "Key": Key, "UploadId": upload_id}

        return self._call("CreateMultipartUpload", create, parameters)

    def upload_part(self, **parameters: Any) -> Answer:
        """Bucket, Key, UploadId, PartNumber (1 to 10000), Body."""

        def upload(
            *, Bucket: str, Key: str, UploadId: str, PartNumber: int, Body: Any = b"", ContentLength: int | None = None
        ) -> Answer:
            if not 1 <= PartNumber <= 10_000:
                raise S3Error("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
            parts = self._state.bucket(Bucket).upload(Key, UploadId).parts
            parts[PartNumber] = self._state.new_object(_bytes_of(Body)[:ContentLength], {}, "")
            return {"ETag": parts[PartNumber].etag}

        return self._call("UploadPart", upload, parameters)

    def complete_multipart_upload(self, **parameters: Any) -> Answer:
        """Bucket, Key, UploadId, MultipartUpload, IfNoneMatch, IfMatch."""

        def complete(
            *,
            Bucket: str,
            Key: str,
            UploadId: str,
            MultipartUpload: Mapping[str, Any] = {},
            IfNoneMatch: str | None = None,
            IfMatch: str | None = None,
        ) -> Answer:
            bucket = self._state.bucket(Bucket)
            made = self._state.join_parts(bucket.upload(Key, UploadId), MultipartUpload.get("Parts", ()))
            self._store_object(bucket, "complete_multipart_upload", Key, made, (IfMatch, IfNoneMatch))
            del bucket.uploads[UploadId]
            return {"Bucket": Bucket, "Key": Key, "ETag": made.etag, "Location": f"{ENDPOINT}/{Bucket}/{Key}"}

        return self._call("CompleteMultipartUpload", complete, parameters)

    def abort_multipart_upload(self, **parameters: Any) -> Answer:
        """Bucket, Key, UploadId."""

        def abort(*, Bucket: str, Key: str, UploadId: str) -> Answer:
            bucket = self._state.bucket(Bucket)
            bucket.upload(Key, UploadId)
            del bucket.uploads[UploadId]
            return {}

        return self._call("AbortMultipartUpload", abort, parameters, status=204)

    def list_multipart_uploads(self, **parameters: Any) -> Answer:
        """Bucket, Prefix; all in one page."""

        def list_all(*, Bucket: str, Prefix: str = "") -> Answer:
            found = [
                {"Key": one.key, "UploadId": upload_id, "Initiated": one.initiated}
                for upload_id, one in self._state.bucket(Bucket).uploads.items()
                if one.key.startswith(Prefix)
            ]
            found.sort(key=lambda one: (str(one["Key"]), str(one["UploadId"])))
            return {"Bucket": Bucket, "Prefix": Prefix, "IsTruncated": False} | ({"Uploads": found} if found else {})

        return self._call("ListMultipartUploads", list_all, parameters)

    # Common to all

    def _call(
        self, api_name: str, work: Callable[..., Answer], parameters: Mapping[str, Any], status: int = 200
    ) -> Answer:
        """Check the parameters of a method, trigger faults, and carry it out."""
        from botocore import xform_name

        self._service.validate(api_name, parameters)
        operation, key = xform_name(api_name), str(parameters.get("Key", parameters.get("Prefix", "")))
        if delay := self.faults.trigger(FaultKind.DELAY, operation, key):
            self._sleep(delay.delay_s)
        if self.faults.trigger(FaultKind.RESET, operation, key):
            raise broken_connection()
        if self.faults.trigger(FaultKind.HTML_PAGE, operation, key):
            return _html_page(api_name)
        try:
            if self.faults.trigger(FaultKind.UNAVAILABLE, operation, key):
                raise S3Error("SlowDown")
            if self.faults.trigger(FaultKind.THROTTLED, operation, key):
                raise S3Error("TooManyRequests")
            with self._lock:
                answer = work(**parameters)
        except S3Error as s3_error:
            raise self._service.error(api_name, s3_error) from None
        if not api_name.startswith(_READ_ONLY) and self.faults.trigger(FaultKind.APPLIED_THEN_ERROR, operation, key):
            raise broken_connection()
        return answer | {"ResponseMetadata": metadata(answer.get("ResponseMetadata", status))}

    def _store_object(
        self, bucket: Bucket, operation: str, key: str, made: StoredObject, conditions: tuple[str | None, str | None]
    ) -> None:
        """Store an object, if the conditions If-Match and If-None-Match hold."""
        is_conditional = conditions != (None, None)
        if is_conditional and self.faults.trigger(FaultKind.CONDITION_REFUSED, operation, key):
            raise S3Error("NotImplemented")
        if is_conditional and not self.faults.trigger(FaultKind.IGNORED_PRECONDITION, operation, key):
            check_conditions(bucket.objects.get(key), *conditions, key=key)
        if not self.faults.trigger(FaultKind.PUT_FORGOTTEN, operation, key):
            bucket.objects[key] = made

    def _receive(self, key: str, body: bytes, has_checksum: bool) -> bytes:
        """The bytes of a body that the server receives."""
        if has_checksum and self.faults.trigger(FaultKind.CHECKSUM_REFUSED, "put_object", key):
            raise S3Error("InvalidRequest", "x-amz-checksum-sha256 is not supported")
        if self.faults.trigger(FaultKind.DAMAGED_UPLOAD, "put_object", key):
            return body[:-1] + bytes([body[-1] ^ 1]) if body else b"?"
        return body

    def _find(self, bucket: str, key: str, operation: str) -> StoredObject:
        """The object as a reader sees it."""
        found = self._state.bucket(bucket).object(key)
        if self.faults.trigger(FaultKind.HIDDEN, operation, key):
            raise S3Error("NoSuchKey", Key=key)
        if operation == "get_object" and self.faults.trigger(FaultKind.ARCHIVED, operation, key):
            raise S3Error("InvalidObjectState", StorageClass="GLACIER")
        if self.faults.trigger(FaultKind.SHORTENED, operation, key):
            return _shortened(found)
        return found

    def _copy_of_names(self) -> Mapping[str, Mapping[str, StoredObject]]:
        with self._lock:
            return {name: dict(bucket.objects) for name, bucket in self._state.buckets.items()}


def _shortened(found: StoredObject) -> StoredObject:
    return attrs.evolve(found, body=found.body[: len(found.body) // 2])


def _html_page(api_name: str) -> Answer:
    """What boto3 returns for an HTML page: fields are missing, without an error."""
    answer: Answer = {"ResponseMetadata": metadata(200)}
    if api_name in ("GetObject", "HeadObject"):
        answer |= {"ContentLength": len(HTML_PAGE), "ContentType": "text/html", "Metadata": {}}
    if api_name == "GetObject":
        answer["Body"] = _streaming_body(HTML_PAGE, len(HTML_PAGE))
    return answer


def _description(found: StoredObject) -> Answer:
    return {
        "AcceptRanges": "bytes",
        "LastModified": found.modified,
        "ETag": found.etag,
        "ContentType": found.content_type,
        "Metadata": dict(found.metadata),
    }


def _bytes_of(body: Any) -> bytes:
    """What a real client sends: bytes, text, or a file from its position on."""
    if isinstance(body, str):
        return body.encode()
    return bytes(body.read() if hasattr(body, "read") else body)


def _streaming_body(sent: bytes, announced: int) -> Any:
    from botocore.response import StreamingBody

    return StreamingBody(io.BytesIO(sent), announced)
