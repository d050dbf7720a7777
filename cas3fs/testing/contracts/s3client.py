# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of boto3's S3 client: `S3ClientContract`, for the fake and for real servers.

A test class adds a fixture `s3`, a client, and a fixture `bucket`, the name of an empty bucket. Tests that not every
server passes are in further classes.
"""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

PART = 5 * 1024 * 1024


def code_of(caught: pytest.ExceptionInfo[Any]) -> tuple[str, int]:
    """Error code and status of a ClientError."""
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def names(answer: Any) -> list[str]:
    """The keys of a listing."""
    return [one["Key"] for one in answer.get("Contents", ())]


class S3ClientContract:
    """The tests of the contract."""

    partial_status = 206
    """The status of a response with a part of an object."""

    @pytest.mark.parametrize("kind", [bytes, bytearray, io.BytesIO])
    @pytest.mark.parametrize("expected", [b"", b"hello"])
    def test_what_was_put_is_given_back(self, s3: Any, bucket: str, kind: Any, expected: bytes) -> None:
        body = kind(expected)
        put = s3.put_object(Bucket=bucket, Key="a/b", Body=body)
        got = s3.get_object(Bucket=bucket, Key="a/b")
        assert got["Body"].read() == expected
        assert got["ContentLength"] == len(expected)
        assert got["ETag"] == put["ETag"]
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 200

    def test_a_body_can_be_read_in_pieces(self, s3: Any, bucket: str) -> None:
        s3.put_object(Bucket=bucket, Key="a", Body=bytes(range(256)))
        body = s3.get_object(Bucket=bucket, Key="a")["Body"]
        assert b"".join(body.iter_chunks(100)) == bytes(range(256))

    def test_an_object_can_be_overwritten_and_deleted(self, s3: Any, bucket: str) -> None:
        for body in (b"one", b"two!"):
            s3.put_object(Bucket=bucket, Key="a", Body=body)
        assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"two!"
        assert s3.delete_object(Bucket=bucket, Key="a")["ResponseMetadata"]["HTTPStatusCode"] == 204
        with pytest.raises(s3.exceptions.NoSuchKey) as caught:
            s3.get_object(Bucket=bucket, Key="a")
        assert code_of(caught) == ("NoSuchKey", 404)
        s3.delete_object(Bucket=bucket, Key="a")

    def test_a_head_shows_size_time_and_metadata(self, s3: Any, bucket: str) -> None:
        s3.put_object(Bucket=bucket, Key="a", Body=b"12345", Metadata={"kind": "x", "more": "a b=c"}, ContentType="x/y")
        head = s3.head_object(Bucket=bucket, Key="a")
        assert head["ContentLength"] == 5
        assert {name.lower(): value for name, value in head["Metadata"].items()} == {"kind": "x", "more": "a b=c"}
        assert abs(head["LastModified"] - datetime.now(UTC)) < timedelta(minutes=5)

    def test_a_missing_object_has_no_head(self, s3: Any, bucket: str) -> None:
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.head_object(Bucket=bucket, Key="none")
        assert code_of(caught) == ("404", 404)

    @pytest.mark.parametrize(
        ("text", "start", "end"),
        [("bytes=0-0", 0, 1), ("bytes=3-5", 3, 6), ("bytes=7-", 7, 10), ("bytes=-4", 6, 10), ("bytes=8-99", 8, 10)],
    )
    def test_a_range_gives_its_bytes(self, s3: Any, bucket: str, text: str, start: int, end: int) -> None:
        s3.put_object(Bucket=bucket, Key="a", Body=b"0123456789")
        got = s3.get_object(Bucket=bucket, Key="a", Range=text)
        assert got["Body"].read() == b"0123456789"[start:end]
        assert got["ContentLength"] == end - start
        assert got["ContentRange"] == f"bytes {start}-{end - 1}/10"
        assert got["ResponseMetadata"]["HTTPStatusCode"] == self.partial_status

    def test_a_range_beyond_the_end_is_refused(self, s3: Any, bucket: str) -> None:
        s3.put_object(Bucket=bucket, Key="a", Body=b"0123456789")
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.get_object(Bucket=bucket, Key="a", Range="bytes=10-12")
        assert code_of(caught) == ("InvalidRange", 416)

    def test_a_listing_ascends_and_comes_in_pages(self, s3: Any, bucket: str) -> None:
        keys = sorted(f"{folder}/{number}" for folder in ("a", "a-b", "b") for number in range(3))
        for key in reversed(keys):
            s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        found: list[str] = []
        answer = s3.list_objects_v2(Bucket=bucket, MaxKeys=4)
        while True:
            assert answer["KeyCount"] == len(names(answer)) <= 4
            found += names(answer)
            if not answer["IsTruncated"]:
                break
            token = answer["NextContinuationToken"]
            answer = s3.list_objects_v2(Bucket=bucket, MaxKeys=4, ContinuationToken=token)
        assert found == keys
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
        assert [key for page in pages for key in names(page)] == keys

    def test_a_listing_shows_sizes_and_times(self, s3: Any, bucket: str) -> None:
        s3.put_object(Bucket=bucket, Key="a", Body=b"12345")
        (one,) = s3.list_objects_v2(Bucket=bucket)["Contents"]
        assert (one["Key"], one["Size"]) == ("a", 5)
        assert abs(one["LastModified"] - datetime.now(UTC)) < timedelta(minutes=5)

    def test_a_listing_can_have_a_prefix_a_start_and_groups(self, s3: Any, bucket: str) -> None:
        for key in ("a/1", "a/2", "a/b/3", "c"):
            s3.put_object(Bucket=bucket, Key=key, Body=b"")
        assert names(s3.list_objects_v2(Bucket=bucket, Prefix="a/")) == ["a/1", "a/2", "a/b/3"]
        assert names(s3.list_objects_v2(Bucket=bucket, StartAfter="a/2")) == ["a/b/3", "c"]
        grouped = s3.list_objects_v2(Bucket=bucket, Prefix="a/", Delimiter="/")
        assert names(grouped) == ["a/1", "a/2"]
        assert [one["Prefix"] for one in grouped["CommonPrefixes"]] == ["a/b/"]
        assert names(s3.list_objects_v2(Bucket=bucket, Prefix="none")) == []

    def test_many_are_deleted_at_once_and_missing_ones_are_ignored(self, s3: Any, bucket: str) -> None:
        for key in ("a", "b", "c"):
            s3.put_object(Bucket=bucket, Key=key, Body=b"")
        wanted = {"Objects": [{"Key": "a"}, {"Key": "b"}, {"Key": "none"}], "Quiet": True}
        assert not s3.delete_objects(Bucket=bucket, Delete=wanted).get("Errors")
        assert names(s3.list_objects_v2(Bucket=bucket)) == ["c"]

    def test_an_object_can_be_put_in_parts(self, s3: Any, bucket: str) -> None:
        upload = s3.create_multipart_upload(Bucket=bucket, Key="big")["UploadId"]
        bodies = [b"a" * PART, b"b" * PART, b"c" * 10]
        parts = []
        for number, body in enumerate(bodies, 1):
            answer = s3.upload_part(Bucket=bucket, Key="big", UploadId=upload, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        assert names(s3.list_objects_v2(Bucket=bucket)) == []
        s3.complete_multipart_upload(Bucket=bucket, Key="big", UploadId=upload, MultipartUpload={"Parts": parts})
        got = s3.get_object(Bucket=bucket, Key="big", Range=f"bytes={2 * PART - 2}-")
        assert got["Body"].read() == b"bb" + b"c" * 10

    def test_an_aborted_upload_leaves_nothing(self, s3: Any, bucket: str) -> None:
        upload = s3.create_multipart_upload(Bucket=bucket, Key="big")["UploadId"]
        s3.upload_part(Bucket=bucket, Key="big", UploadId=upload, PartNumber=1, Body=b"x")
        s3.abort_multipart_upload(Bucket=bucket, Key="big", UploadId=upload)
        assert names(s3.list_objects_v2(Bucket=bucket)) == []
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.abort_multipart_upload(Bucket=bucket, Key="big", UploadId=upload)
        assert code_of(caught) == ("NoSuchUpload", 404)

    def test_buckets_are_made_listed_and_removed(self, s3: Any, bucket: str) -> None:
        other = f"{bucket}-other"
        s3.create_bucket(Bucket=other)
        s3.head_bucket(Bucket=other)
        assert {bucket, other} <= {one["Name"] for one in s3.list_buckets()["Buckets"]}
        s3.put_object(Bucket=other, Key="a", Body=b"")
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.delete_bucket(Bucket=other)
        assert code_of(caught)[0] == "BucketNotEmpty"
        s3.delete_object(Bucket=other, Key="a")
        s3.delete_bucket(Bucket=other)
        assert other not in {one["Name"] for one in s3.list_buckets()["Buckets"]}

    def test_a_missing_bucket_is_named(self, s3: Any, bucket: str) -> None:
        with pytest.raises(s3.exceptions.NoSuchBucket) as caught:
            s3.list_objects_v2(Bucket=f"{bucket}-none")
        assert code_of(caught) == ("NoSuchBucket", 404)
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.head_bucket(Bucket=f"{bucket}-none")
        assert code_of(caught) == ("404", 404)

    @pytest.mark.parametrize(
        "parameters", [{}, {"Key": "a"}, {"Bucket": "b", "Key": 5}, {"Bucket": "b", "Key": "a", "Colour": "red"}]
    )
    def test_invalid_parameters_are_refused_before_a_request_is_sent(self, s3: Any, parameters: dict[str, Any]) -> None:
        from botocore.exceptions import ParamValidationError

        with pytest.raises(ParamValidationError):
            s3.get_object(**parameters)


class HonoursConditions:
    """For servers that honour conditions."""

    def test_create_if_absent_succeeds_once(self, s3: Any, bucket: str) -> None:
        s3.put_object(Bucket=bucket, Key="a", Body=b"one", IfNoneMatch="*")
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.put_object(Bucket=bucket, Key="a", Body=b"two", IfNoneMatch="*")
        assert code_of(caught) == ("PreconditionFailed", 412)
        assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"one"

    def test_a_put_with_if_match_replaces_only_that_etag(self, s3: Any, bucket: str) -> None:
        etag = s3.put_object(Bucket=bucket, Key="a", Body=b"one")["ETag"]
        s3.put_object(Bucket=bucket, Key="a", Body=b"two", IfMatch=etag)
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.put_object(Bucket=bucket, Key="a", Body=b"three", IfMatch=etag)
        assert code_of(caught) == ("PreconditionFailed", 412)
        assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"two"

    def test_a_read_with_an_etag_condition_shows_a_change(self, s3: Any, bucket: str) -> None:
        etag = s3.put_object(Bucket=bucket, Key="a", Body=b"one")["ETag"]
        assert s3.get_object(Bucket=bucket, Key="a", IfMatch=etag)["Body"].read() == b"one"
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.head_object(Bucket=bucket, Key="a", IfNoneMatch=etag)
        assert code_of(caught) == ("304", 304)


def upload_small_parts(s3: Any, bucket: str) -> tuple[str, list[dict[str, Any]]]:
    """An upload with two parts of a byte each, and the list of parts to complete it."""
    upload = s3.create_multipart_upload(Bucket=bucket, Key="big")["UploadId"]
    place = {"Bucket": bucket, "Key": "big", "UploadId": upload}
    return upload, [
        {"PartNumber": number, "ETag": s3.upload_part(**place, PartNumber=number, Body=b"x")["ETag"]}
        for number in (1, 2)
    ]


def refusal_to_complete(s3: Any, bucket: str, upload: str, parts: list[dict[str, Any]]) -> tuple[str, int]:
    """Code and status of the error."""
    with pytest.raises(s3.exceptions.ClientError) as caught:
        s3.complete_multipart_upload(Bucket=bucket, Key="big", UploadId=upload, MultipartUpload={"Parts": parts})
    return code_of(caught)


class ChecksPartSizes:
    """For servers that require 5 MiB of every part but the last."""

    def test_parts_that_are_too_small_are_refused(self, s3: Any, bucket: str) -> None:
        upload, parts = upload_small_parts(s3, bucket)
        assert refusal_to_complete(s3, bucket, upload, parts) == ("EntityTooSmall", 400)


class ChecksPartOrder:
    """For servers that check the order of parts before their sizes."""

    def test_parts_out_of_order_are_refused(self, s3: Any, bucket: str) -> None:
        upload, parts = upload_small_parts(s3, bucket)
        assert refusal_to_complete(s3, bucket, upload, parts[::-1]) == ("InvalidPartOrder", 400)
