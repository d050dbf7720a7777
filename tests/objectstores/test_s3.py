# SPDX-License-Identifier: GPL-3.0-or-later
"""The S3 store beyond the contract: servers that fail, differ, or refuse, and the error messages for that."""

import base64
import hashlib
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest

from cas3fs.config import StoreSettings
from cas3fs.errors import (
    AccessDenied,
    DeleteFailed,
    ObjectExists,
    ObjectMissing,
    ObjectTooShort,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreRefused,
    StoreUnreachable,
    TransientStoreError,
    TruncatedBody,
    UsageError,
)
from cas3fs.metrics import Metrics
from cas3fs.objectstores import RetryPolicy, probe_create_if_absent
from cas3fs.objectstores.s3 import S3Store, make_client
from cas3fs.objectstores.wrappers import RetryingStore
from cas3fs.testing.fake_s3 import FakeS3
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.servers import REGION, S3Server
from tests.objectstores.scripted import Reply, Script, error, serve


@pytest.fixture(scope="module")
def server() -> Iterator[Script]:
    with serve() as script:
        yield script


@pytest.fixture(scope="module")
def client(server: Script) -> Iterator[Any]:
    """The tests share one client, as making one takes long."""
    with closing(make_client(StoreSettings("s3://bucket", server.endpoint_url, "key", "secret", REGION))) as client:
        yield client


@pytest.fixture
def script(server: Script) -> Script:
    server.asked.clear()
    return server


@pytest.fixture
def store(client: Any) -> S3Store:
    return S3Store("bucket", "prefix", client=client)


STORED = Reply(headers={"ETag": '"5d41402abc4b2a76b9719d911017c592"'})
"""The response to a put."""


def found(body: bytes, status: int = 200, *, missing_bytes: int = 0, **headers: str) -> Reply:
    """The response to a get."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, body, dict(STORED.headers) | given, missing_bytes)


def listing(*keys: str, next_token: str = "") -> Reply:
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        for key in keys
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{next_token}</NextContinuationToken>"
    end = more if next_token else "<IsTruncated>false</IsTruncated>"
    return Reply(200, f"<ListBucketResult>{contents}{end}</ListBucketResult>".encode())


# Requests


def test_a_put_is_conditional_and_sends_the_body_once(store: S3Store, script: Script) -> None:
    script.replies = [STORED]
    store.put_if_absent("packs/3f9c", memoryview(b"bytes"), {"kind": "pack"})
    (asked,) = script.asked
    assert (asked.method, asked.path, asked.body) == ("PUT", "/bucket/prefix/packs/3f9c", b"bytes")
    assert asked.headers["if-none-match"] == "*"
    assert asked.headers["x-amz-meta-kind"] == "pack"
    assert "aws-chunked" not in asked.headers.get("content-encoding", "")
    assert asked.headers["x-amz-checksum-sha256"] == base64.b64encode(hashlib.sha256(b"bytes").digest()).decode()
    assert "x-amz-sdk-checksum-algorithm" not in asked.headers


def test_botocore_does_not_retry(store: S3Store, script: Script) -> None:
    script.replies = [error(503, "SlowDown")]
    with pytest.raises(StoreBusy):
        store.get("a")
    assert len(script.asked) == 1


# Error responses

REFUSALS = [
    (404, "NoSuchKey", ObjectMissing, "no such object"),
    (404, "NoSuchBucket", StoreMissing, "no such bucket: bucket at http://127.0.0.1"),
    (412, "PreconditionFailed", ObjectExists, "the name is taken"),
    (409, "ConditionalRequestConflict", StoreBusy, "409"),
    (403, "AccessDenied", AccessDenied, "said the server"),
    (403, "InvalidAccessKeyId", AccessDenied, "unknown access key"),
    (403, "SignatureDoesNotMatch", AccessDenied, "wrong secret key"),
    (400, "ExpiredToken", AccessDenied, "expired"),
    (403, "RequestTimeTooSkewed", AccessDenied, "clock"),
    (401, "Whatever", AccessDenied, "credentials are wrong"),
    (403, "QuotaExceeded", StoreFull, "full"),
    (507, "XMinioStorageFull", StoreFull, "full"),
    (507, "Whatever", StoreFull, "full"),
    (400, "InvalidArgument", StoreRefused, "400 InvalidArgument said the server"),
    (413, "EntityTooLarge", StoreRefused, "EntityTooLarge"),
    (400, "RequestTimeout", StoreBusy, "RequestTimeout"),
    (408, "", StoreBusy, "408"),
    (429, "TooManyRequests", StoreBusy, "429"),
    (500, "InternalError", StoreBusy, "500"),
    (502, "", StoreBusy, "502"),
    (503, "SlowDown", StoreBusy, "503"),
    (504, "", StoreBusy, "504"),
    (501, "NotImplemented", StoreRefused, "501"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal[0]} {refusal[1]}")
def test_an_error_response_becomes_one_clear_line(
    store: S3Store, script: Script, refusal: tuple[int, str, type[StoreError], str]
) -> None:
    status, code, expected, words = refusal
    script.replies = [error(status, code, "said\n the   server")]
    with pytest.raises(expected, match=words) as caught:
        store.get("a/b")
    assert "\n" not in str(caught.value)
    assert type(caught.value) is expected


def test_a_long_error_message_is_shortened(store: S3Store, script: Script) -> None:
    script.replies = [error(400, "Strange", "x" * 5000)]
    with pytest.raises(StoreRefused) as caught:
        store.get("a")
    assert len(str(caught.value)) < 500


def test_the_error_for_a_bucket_in_another_region_says_what_to_set(store: S3Store, script: Script) -> None:
    script.replies = [error(301, "PermanentRedirect"), Reply(404)]
    with pytest.raises(StoreRefused, match="bucket bucket is in another region: set AWS_REGION or the endpoint"):
        store.get("a")


def test_endless_redirects_are_an_error(store: S3Store, script: Script) -> None:
    script.replies = [Reply(301, b"<html>Moved</html>", {"Location": "https://127.0.0.1/"})]
    with pytest.raises(StoreRefused, match=r"in another region.*301"):
        store.get("a")


# Transport


def test_a_closed_connection_is_a_transient_error(store: S3Store, script: Script) -> None:
    script.replies = [Reply(cut=True)]
    with pytest.raises(TransientStoreError, match=r"cannot reach .* for s3://bucket/prefix: it closed the connection"):
        store.get("a")


@pytest.mark.parametrize("read", [lambda store: store.get("a"), lambda store: store.get_range("a", 0, 9)])
def test_a_truncated_body_is_an_error(store: S3Store, script: Script, read: object) -> None:
    assert callable(read)
    script.replies = [found(b"12345", missing_bytes=4)]
    with pytest.raises(TruncatedBody, match="ended early"):
        read(store)


def test_pieces_before_a_truncation_are_delivered(store: S3Store, script: Script) -> None:
    script.replies = [found(b"12345678", 206, Content_Range="bytes 3-14/99", missing_bytes=4)]
    pieces: list[bytes] = []
    with pytest.raises(TruncatedBody, match="ended early"):
        store.get_pieces("a", 3, (2, 3, 7), pieces.append)
    assert pieces == [b"12", b"345"]


def test_every_piece_of_a_body_counts_as_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeS3("bucket")
    client.put_object(Bucket="bucket", Key="a", Body=bytes(5 << 20))
    ticks = iter(range(1000))
    monkeypatch.setattr("cas3fs.objectstores.s3.time.monotonic", lambda: float(next(ticks)))
    store = S3Store("bucket", client=cast(Any, client))
    before_s = store.last_response_at_s
    assert store.get("a") == bytes(5 << 20)
    assert store.last_response_at_s >= before_s + 5
    with client.faults.on(FaultKind.RESET), pytest.raises(StoreUnreachable):
        after_s = store.last_response_at_s
        store.get("a")
    assert store.last_response_at_s == after_s


def test_a_refused_connection_is_named_in_the_error(script: Script) -> None:
    with serve() as gone:
        endpoint_url = gone.endpoint_url
    with (
        closing(S3Store("bucket", "", StoreSettings("s3://bucket", endpoint_url, "key", "secret", REGION))) as store,
        pytest.raises(StoreUnreachable, match=r"cannot reach http.* for s3://bucket: Connection refused"),
    ):
        store.get("a")


def test_tls_to_a_server_without_tls_is_a_clear_error(script: Script) -> None:
    endpoint_url = script.endpoint_url.replace("http:", "https:")
    script.replies = [Reply()]
    with (
        closing(S3Store("bucket", "", StoreSettings("s3://bucket", endpoint_url, "key", "secret", REGION))) as store,
        pytest.raises(StoreRefused, match="does not speak TLS"),
    ):
        store.get("a")


def test_an_invalid_endpoint_is_a_usage_error() -> None:
    store = S3Store("bucket", "", StoreSettings("s3://bucket", "nonsense", "key", "secret", REGION))
    with pytest.raises(UsageError, match="endpoint is not valid: Invalid endpoint: nonsense"):
        store.get("a")


def test_the_error_for_missing_credentials_says_what_to_set(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with closing(S3Store("bucket", "", StoreSettings("s3://bucket", script.endpoint_url))) as store:
        with pytest.raises(AccessDenied, match=r"no usable credentials.*AWS_PROFILE"):
            store.get("a")
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(AccessDenied, match="nobody"):
            S3Store("bucket", "", StoreSettings("s3://bucket", script.endpoint_url)).get("a")


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of credentials, the only source of them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path


def write_key(path: Path, key: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-of-{key}\n")


@pytest.mark.promise("surroundings-may-change")
@pytest.mark.parametrize(
    "refusal", [error(400, "ExpiredToken"), error(403, "InvalidAccessKeyId"), error(403, "AccessDenied"), Reply(403)]
)
def test_rotated_credentials_are_read_again(credentials: Path, script: Script, refusal: Reply) -> None:
    write_key(credentials, "OLD")
    with closing(S3Store("bucket", "", StoreSettings("s3://bucket", script.endpoint_url, region=REGION))) as store:
        script.replies = [refusal]
        with pytest.raises(AccessDenied):
            store.get("a")
        write_key(credentials, "ROTATED")
        script.replies = [refusal, found(b"bytes")]
        assert RetryingStore(store, RetryPolicy(base_delay_s=0.01), Metrics()).get("a") == b"bytes"
    keys = [asked.headers["authorization"].partition("Credential=")[2].partition("/")[0] for asked in script.asked]
    assert keys == ["OLD", "OLD", "ROTATED"]


def test_credentials_that_are_added_later_are_found(credentials: Path, script: Script) -> None:
    script.replies = [found(b"bytes")]
    with closing(S3Store("bucket", "", StoreSettings("s3://bucket", script.endpoint_url, region=REGION))) as store:
        with pytest.raises(AccessDenied, match="no usable credentials"):
            store.get("a")
        write_key(credentials, "NEW")
        assert RetryingStore(store, RetryPolicy(base_delay_s=0.01), Metrics()).get("a") == b"bytes"


# Servers that differ


def test_without_support_for_conditions_a_head_precedes_every_put(store: S3Store, script: Script) -> None:
    missing, unknown = Reply(404), error(501, "NotImplemented")
    script.replies = [unknown, unknown, missing, STORED, missing, STORED, STORED]
    store.put_if_absent("a", BytesIO(b"bytes"))
    store.put_if_absent("b", BytesIO(b"bytes"))
    with pytest.raises(ObjectExists):
        store.put_if_absent("b", BytesIO(b"other"))
    assert [asked.method for asked in script.asked] == ["PUT", "PUT", "HEAD", "PUT", "HEAD", "PUT", "HEAD"]
    assert [asked.body for asked in script.asked if asked.method == "PUT"] == [b"bytes"] * 4
    assert ["if-none-match" in asked.headers for asked in script.asked] == [True, True, *[False] * 5]


@pytest.mark.promise("only-real-answers-count")
def test_a_server_that_once_honoured_a_condition_supports_it(store: S3Store, script: Script) -> None:
    unknown = error(501, "NotImplemented")
    script.replies = [error(412, "PreconditionFailed"), unknown, unknown]
    with pytest.raises(ObjectExists):
        store.put_if_absent("a", b"bytes")
    with pytest.raises(StoreRefused, match="501"):
        store.put_if_absent("b", b"bytes")
    assert all("if-none-match" in asked.headers for asked in script.asked)


def digests_sent(script: Script) -> list[str]:
    names = ("x-amz-checksum-sha256", "content-md5")
    return [name for asked in script.asked for name in names if name in asked.headers]


@pytest.mark.promise("only-real-answers-count")
def test_a_server_that_does_not_repeat_sha256_gets_md5(store: S3Store, script: Script) -> None:
    script.replies = [STORED]
    for _ in range(3):
        store.put_if_absent("a", BytesIO(b"bytes"))
    assert digests_sent(script) == ["x-amz-checksum-sha256", "content-md5", "content-md5"]
    assert script.asked[1].headers["content-md5"] == md5_of(b"bytes")


def test_a_server_that_repeats_sha256_gets_it_with_every_put(store: S3Store, script: Script) -> None:
    script.replies = [Reply(headers={**STORED.headers, "x-amz-checksum-sha256": "as sent"})]
    for _ in range(2):
        store.put_if_absent("a", b"bytes")
    assert digests_sent(script) == ["x-amz-checksum-sha256"] * 2


@pytest.mark.promise("only-real-answers-count")
@pytest.mark.parametrize(
    ("status", "code"), [(400, "InvalidRequest"), (400, "InvalidArgument"), (501, "NotImplemented")]
)
def test_a_server_that_refuses_sha256_gets_md5(store: S3Store, script: Script, status: int, code: str) -> None:
    script.replies = [error(status, code), STORED]
    store.put_if_absent("a", BytesIO(b"bytes"))
    store.put_if_absent("b", BytesIO(b"bytes"))
    assert digests_sent(script) == ["x-amz-checksum-sha256", "content-md5", "content-md5"]
    assert all("if-none-match" in asked.headers and asked.body == b"bytes" for asked in script.asked)


def test_a_checksum_mismatch_is_a_transient_error(store: S3Store, script: Script) -> None:
    script.replies = [error(400, "BadDigest")]
    with pytest.raises(StoreBusy):
        store.put_if_absent("a", b"bytes")


@pytest.mark.promise("only-real-answers-count")
def test_a_bucket_with_object_lock_accepts_puts() -> None:
    fake = FakeS3()
    fake.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    store = S3Store("locked", client=cast(Any, fake))
    for key in "ab":
        store.put_if_absent(key, BytesIO(b"bytes"))
    assert store.get("b") == b"bytes"


def md5_of(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


# Responses that are not from S3

HTML = Reply(200, b"<html><body>Please log in.</body></html>", {"Content-Type": "text/html"})
BROKEN_HTML = HTML._replace(body=b"<!doctype html><p>Please <br>log in.")
REQUESTS = {
    "put": lambda store: store.put_if_absent("a", b"bytes"),
    "get": lambda store: store.get("a"),
    "range": lambda store: store.get_range("a", 0, 4),
    "head": lambda store: store.head("a"),
    "list": lambda store: store.list_page(),
    "delete": lambda store: store.delete_many(["a"]),
}


PAGES = {
    "html": HTML,
    "not even xml": BROKEN_HTML,
    "untyped": HTML._replace(headers={}),
    "403": HTML._replace(status=403),
}


@pytest.mark.promise("only-real-answers-count")
@pytest.mark.parametrize(
    ("request_name", "page"),
    [one for one in product(REQUESTS, PAGES) if one != ("head", "403")],  # that response has no body
)
def test_a_page_of_html_is_a_transient_error(store: S3Store, script: Script, page: str, request_name: str) -> None:
    script.replies = [PAGES[page]]
    words = "is not from an S3 server|responded 500"  # botocore makes a 500 of what is no XML
    with pytest.raises(StoreBusy, match=words) as caught:
        REQUESTS[request_name](store)
    assert "\n" not in str(caught.value)


@pytest.mark.promise("only-real-answers-count")
def test_a_page_of_html_for_a_single_deletion_is_a_transient_error(store: S3Store, script: Script) -> None:
    script.replies = [error(501, "NotImplemented"), HTML]
    with pytest.raises(StoreBusy, match="is not from an S3 server"):
        store.delete_many(["a"])


@pytest.mark.promise("only-real-answers-count")
def test_a_listing_without_sizes_is_a_transient_error(store: S3Store, script: Script) -> None:
    script.replies = [
        Reply(
            200,
            b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents></ListBucketResult>",
        )
    ]
    with pytest.raises(StoreBusy, match="it lacks Size"):
        store.list_page()


@pytest.mark.promise("only-real-answers-count")
def test_a_deletion_response_without_one_key_is_a_transient_error(store: S3Store, script: Script) -> None:
    script.replies = [Reply(200, b"<DeleteResult><Deleted><Key>prefix/a</Key></Deleted></DeleteResult>")]
    with pytest.raises(StoreBusy, match="it lacks a result for prefix/b"):
        store.delete_many("ab")


def test_ranges_work_on_a_server_that_ignores_them(store: S3Store, script: Script) -> None:
    script.replies = [found(b"0123456789")]
    assert store.get_range("a", 3, 4) == b"3456"
    with pytest.raises(ObjectTooShort):
        store.get_range("a", 8, 4)
    pieces: list[bytes] = []
    store.get_pieces("a", 3, (1, 3), pieces.append)
    assert pieces == [b"3", b"456"]


def test_a_part_with_status_200_is_a_part(store: S3Store, script: Script) -> None:
    script.replies = [found(b"3456", Content_Range="bytes 3-6/10")]
    assert store.get_range("a", 3, 4) == b"3456"


def test_names_of_metadata_are_returned_in_lower_case(store: S3Store, script: Script) -> None:
    script.replies = [found(b"", X_Amz_Meta_Kind="pack", Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")]
    assert store.head("a").metadata == {"kind": "pack"}


def test_a_head_in_a_missing_bucket_names_the_bucket(store: S3Store, script: Script) -> None:
    script.replies = [Reply(404)]
    with pytest.raises(StoreMissing, match="no such bucket: bucket"):
        store.head("a")
    script.replies = [Reply(404), Reply(403)]
    with pytest.raises(ObjectMissing):
        store.head("a")


# Listing


def test_a_listing_continues_where_the_page_ended(store: S3Store, script: Script) -> None:
    script.replies = [listing("prefix/a", "prefix/b", next_token="t"), listing("prefix/c")]
    assert [info.key for info in store.list()] == ["a", "b", "c"]
    assert "start-after=prefix/b" in script.asked[1].path.replace("%2F", "/")


def test_an_empty_page_is_not_the_end(store: S3Store, script: Script) -> None:
    script.replies = [listing(next_token="t"), listing("prefix/c")]
    assert [info.key for info in store.list()] == ["c"]
    assert "continuation-token=t" in script.asked[1].path


def test_objects_with_other_keys_are_skipped(store: S3Store, script: Script) -> None:
    script.replies = [listing("prefix/", "prefix/.x", "prefix/a", "prefix/b/", "prefix/c d")]
    assert [info.key for info in store.list()] == ["a"]


@pytest.mark.parametrize("keys", [("prefix/b", "prefix/a"), ("prefix/a", "prefix/a")])
def test_a_server_that_lists_out_of_order_is_refused(store: S3Store, script: Script, keys: tuple[str, ...]) -> None:
    script.replies = [listing(*keys)]
    with pytest.raises(TransientStoreError, match="out of order"):
        list(store.list())


def test_a_server_that_repeats_a_page_is_refused(store: S3Store, script: Script) -> None:
    script.replies = [listing("prefix/a", next_token="t")]
    with pytest.raises(TransientStoreError, match="out of order"):
        list(store.list())


def test_a_listing_that_fails_at_its_second_page_raises(store: S3Store, script: Script) -> None:
    script.replies = [listing("prefix/a", next_token="t"), error(500, "InternalError")]
    listed = store.list()
    assert next(listed).key == "a"
    with pytest.raises(StoreBusy):
        next(listed)


# Deleting


def deletions(*keys: str, **codes: str) -> Reply:
    """The response to a deletion: these keys are deleted, the others refused with codes."""
    gone = "".join(f"<Deleted><Key>prefix/{key}</Key></Deleted>" for key in keys)
    errors = "".join(f"<Error><Key>prefix/{key}</Key><Code>{code}</Code></Error>" for key, code in codes.items())
    return Reply(200, f"<DeleteResult>{gone}{errors}</DeleteResult>".encode())


def test_keys_that_could_not_be_deleted_are_named(store: S3Store, script: Script) -> None:
    script.replies = [deletions("c", a="AccessDenied", b="NoSuchKey")]
    with pytest.raises(DeleteFailed, match="1 objects of s3://bucket/prefix could not be deleted, such as a") as caught:
        store.delete_many("abc")
    assert caught.value.keys == ("a",)


def test_a_deletion_that_may_succeed_later_is_a_transient_error(store: S3Store, script: Script) -> None:
    script.replies = [deletions("c", a="AccessDenied", b="InternalError")]
    with pytest.raises(StoreBusy):
        store.delete_many("abc")


def test_objects_are_deleted_singly_where_the_server_needs_that(store: S3Store, script: Script) -> None:
    script.replies = [error(501, "NotImplemented"), Reply(204), error(403, "AccessDenied"), error(404, "NoSuchKey")]
    with pytest.raises(DeleteFailed) as caught:
        store.delete_many("abc")
    assert caught.value.keys == ("b",)
    assert [asked.path for asked in script.asked if asked.method == "DELETE"] == [
        f"/bucket/prefix/{key}" for key in "abc"
    ]


def test_more_than_a_thousand_are_deleted_in_batches(store: S3Store, script: Script) -> None:
    keys = [str(number) for number in range(2001)]
    script.replies = [deletions(*keys)]
    store.delete_many(keys)
    assert [asked.body.count(b"<Object>") for asked in script.asked] == [1000, 1000, 1]


# On real servers


@pytest.mark.promise("only-real-answers-count")
def test_a_real_server_refuses_a_damaged_body(rclone_s3: S3Server) -> None:
    """Also where the signature does not cover the body, as over TLS; rclone verifies MD5, but not SHA-256."""
    rclone_s3.make_bucket("damaged")
    settings = StoreSettings("s3://bucket", rclone_s3.endpoint_url, rclone_s3.access_key, rclone_s3.secret_key, REGION)
    with closing(make_client(settings)) as client:
        store = S3Store("damaged", "v", client=client)
        store.put_if_absent("first", b"bytes")

        def damage(params: Any, **_: Any) -> None:
            params["body"] = b"bytfs"

        client.meta.events.register_last("before-call.s3.PutObject", damage)
        with pytest.raises(StoreBusy, match="BadDigest"):
            store.put_if_absent("second", b"bytes")
        assert [info.key for info in store.list()] == ["first"]


def test_a_wrong_bucket_and_wrong_credentials_are_different_errors(rclone_s3: S3Server) -> None:
    rclone_s3.make_bucket("different-errors")
    cases = [
        ("absent-bucket", rclone_s3.access_key, rclone_s3.secret_key, StoreMissing, "no such bucket: absent-bucket"),
        ("different-errors", "WRONG", rclone_s3.secret_key, AccessDenied, "unknown access key"),
        ("different-errors", rclone_s3.access_key, "WRONG", AccessDenied, "wrong secret key"),
    ]
    for bucket, access_key, secret_key, expected, words in cases:
        settings = StoreSettings("s3://bucket", rclone_s3.endpoint_url, access_key, secret_key, REGION)
        with closing(S3Store(bucket, "v", settings)) as store, pytest.raises(expected, match=words):
            probe_create_if_absent(store)


def test_a_put_does_not_copy_its_body(rclone_s3: S3Server) -> None:
    rclone_s3.make_bucket("uncopied")
    settings = StoreSettings("s3://bucket", rclone_s3.endpoint_url, rclone_s3.access_key, rclone_s3.secret_key, REGION)
    pack = bytearray(os.urandom(8 << 20))
    with closing(S3Store("uncopied", "v", settings)) as store:
        store.put_if_absent("warm", b"connected")
        tracemalloc.start()
        try:
            store.put_if_absent("pack", pack)
            assert tracemalloc.get_traced_memory()[1] < len(pack) // 2
        finally:
            tracemalloc.stop()
        assert store.get("pack") == pack
