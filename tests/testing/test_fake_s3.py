# SPDX-License-Identifier: GPL-3.0-or-later
"""The fake S3: the same contract as real servers, a comparison with botocore's description, and its faults."""

import ast
import base64
import hashlib
import inspect
import secrets
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.exceptions import ConnectionClosedError, IncompleteReadError

from cas3fs.errors import ObjectExists, StoreUnreachable, TruncatedBody
from cas3fs.objectstores.probe import probe_create_if_absent
from cas3fs.objectstores.s3 import S3Store
from cas3fs.testing import fake_s3 as module
from cas3fs.testing.contracts.s3client import (
    ChecksPartOrder,
    ChecksPartSizes,
    HonoursConditions,
    S3ClientContract,
    code_of,
    names,
)
from cas3fs.testing.fake_s3 import FakeS3
from cas3fs.testing.fake_s3_errors import S3Service
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.servers import S3Server, s3_client
from tests.contracts.objectstore import CreatesOnlyOnce, KeepsMetadata, ObjectStoreContract


@pytest.fixture
def fake() -> FakeS3:
    return FakeS3("bucket")


class TestTheFake(S3ClientContract, HonoursConditions, ChecksPartSizes, ChecksPartOrder):
    @pytest.fixture
    def s3(self) -> FakeS3:
        return FakeS3("bucket")

    @pytest.fixture
    def bucket(self) -> str:
        return "bucket"


class OnAServer(S3ClientContract):
    @pytest.fixture
    def s3(self, server: S3Server) -> Iterator[Any]:
        client = s3_client(server)
        yield client
        client.close()

    @pytest.fixture
    def bucket(self, s3: Any) -> str:
        name = f"contract-{secrets.token_hex(6)}"
        s3.create_bucket(Bucket=name)
        return name


class TestMoto(OnAServer, HonoursConditions, ChecksPartSizes):
    @pytest.fixture
    def server(self, moto_s3: S3Server) -> S3Server:
        return moto_s3


class TestRclone(OnAServer, ChecksPartOrder):
    """It ignores the conditions of puts, and accepts parts of any size."""

    partial_status = 200

    @pytest.fixture
    def server(self, rclone_s3: S3Server) -> S3Server:
        return rclone_s3


class TestAnObjectStoreOnTheFake(ObjectStoreContract, CreatesOnlyOnce, KeepsMetadata):
    @pytest.fixture
    def store(self, fake: FakeS3) -> S3Store:
        return S3Store("bucket", "some/prefix", page_size=3, client=fake)  # type: ignore[arg-type]


# --- held against botocore's description of the service


def parameters_by_operation() -> dict[str, set[str]]:
    """The parameters of each method of the fake: the keyword arguments of its inner function."""
    (cls,) = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)][-1:]
    taken = {}
    for method in cls.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            for inner in method.body:
                if isinstance(inner, ast.FunctionDef):
                    taken[method.name] = {argument.arg for argument in inner.args.kwonlyargs}
    return taken


@pytest.mark.parametrize("operation", sorted(parameters_by_operation()))
def test_every_method_and_parameter_is_one_of_the_service(operation: str) -> None:
    model = S3Service().model
    (api_name,) = [name for name in model.operation_names if xform_name(name) == operation]
    shape = model.operation_model(api_name).input_shape
    members = set() if shape is None else set(shape.members)
    required = set() if shape is None else set(shape.required_members)
    taken = parameters_by_operation()[operation]
    assert taken <= members
    assert required <= taken
    assert hasattr(boto3.client("s3", region_name="us-east-1"), operation)


def test_every_answer_has_only_members_of_the_service(fake: FakeS3) -> None:
    """One call of each, in an order in which all succeed."""
    upload = fake.create_multipart_upload(Bucket="bucket", Key="m")["UploadId"]
    part = fake.upload_part(Bucket="bucket", Key="m", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    place = {"Bucket": "bucket", "Key": "k"}
    answers = {
        "CreateBucket": fake.create_bucket(Bucket="other"),
        "HeadBucket": fake.head_bucket(Bucket="other"),
        "ListBuckets": fake.list_buckets(),
        "PutObject": fake.put_object(**place, Body=b"12345", Metadata={"a": "b"}),
        "GetObject": fake.get_object(**place, Range="bytes=1-2"),
        "HeadObject": fake.head_object(**place),
        "ListObjectsV2": fake.list_objects_v2(Bucket="bucket", MaxKeys=1, Prefix="", StartAfter="a"),
        "ListMultipartUploads": fake.list_multipart_uploads(Bucket="bucket"),
        "CompleteMultipartUpload": fake.complete_multipart_upload(
            Bucket="bucket",
            Key="m",
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]},
        ),
        "DeleteObjects": fake.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": "m"}]}),
    }
    model = S3Service().model
    for api_name, answer in answers.items():
        shape = model.operation_model(api_name).output_shape
        assert shape is not None
        assert set(answer) - {"ResponseMetadata"} <= set(shape.members), api_name
        for name, value in answer.items():
            if isinstance(value, list) and value:
                assert set(value[0]) <= set(shape.members[name].member.members), (api_name, name)


# --- faults


@pytest.mark.parametrize(
    ("kind", "code"), [(FaultKind.UNAVAILABLE, ("SlowDown", 503)), (FaultKind.THROTTLED, ("TooManyRequests", 429))]
)
def test_a_fault_happens_as_often_as_requested(fake: FakeS3, kind: FaultKind, code: tuple[str, int]) -> None:
    with fake.faults.on(kind, operations=["put_object"], times=2) as fault:
        for _ in range(2):
            with pytest.raises(fake.exceptions.ClientError) as caught:
                fake.put_object(Bucket="bucket", Key="a", Body=b"")
            assert code_of(caught) == code
        fake.put_object(Bucket="bucket", Key="a", Body=b"")
    assert fault.times_triggered == 2


def test_a_fault_affects_only_its_operations_and_keys(fake: FakeS3) -> None:
    with fake.faults.on(FaultKind.RESET, operations=["put_object"], key_prefix="packs/"):
        fake.put_object(Bucket="bucket", Key="a", Body=b"")
        fake.get_object(Bucket="bucket", Key="a")
        with pytest.raises(ConnectionClosedError):
            fake.put_object(Bucket="bucket", Key="packs/1", Body=b"")
    fake.put_object(Bucket="bucket", Key="packs/1", Body=b"")


def test_an_applied_put_may_still_fail(fake: FakeS3) -> None:
    with fake.faults.on(FaultKind.APPLIED_THEN_ERROR), pytest.raises(ConnectionClosedError):
        fake.put_object(Bucket="bucket", Key="a", Body=b"x")
    assert fake.get_object(Bucket="bucket", Key="a")["Body"].read() == b"x"


def test_a_truncated_body_raises_as_with_the_real_client(fake: FakeS3) -> None:
    fake.put_object(Bucket="bucket", Key="a", Body=b"0123456789")
    with fake.faults.on(FaultKind.TRUNCATED):
        body = fake.get_object(Bucket="bucket", Key="a")["Body"]
        with pytest.raises(IncompleteReadError):
            body.read()


def test_listings_can_end_early_or_be_old(fake: FakeS3) -> None:
    for key in "abcd":
        fake.put_object(Bucket="bucket", Key=key, Body=b"")
    with fake.faults.on(FaultKind.LISTING_ENDS_EARLY):
        answer = fake.list_objects_v2(Bucket="bucket")
        assert (names(answer), answer["IsTruncated"]) == (["a", "b"], False)
    with fake.faults.on(FaultKind.EVENTUAL_LISTING):
        fake.put_object(Bucket="bucket", Key="e", Body=b"")
        fake.delete_object(Bucket="bucket", Key="a")
        assert names(fake.list_objects_v2(Bucket="bucket")) == list("abcd")
        assert fake.get_object(Bucket="bucket", Key="e")["Body"].read() == b""
    assert names(fake.list_objects_v2(Bucket="bucket")) == list("bcde")


def test_conditions_can_be_ignored(fake: FakeS3) -> None:
    store = S3Store("bucket", client=fake)  # type: ignore[arg-type]
    assert probe_create_if_absent(store)
    with fake.faults.on(FaultKind.IGNORED_PRECONDITION):
        assert not probe_create_if_absent(store)


def test_a_page_of_html_can_replace_any_response(fake: FakeS3) -> None:
    place = {"Bucket": "bucket", "Key": "a"}
    with fake.faults.on(FaultKind.HTML_PAGE):
        assert set(fake.put_object(**place, Body=b"x")) == {"ResponseMetadata"}
        assert set(fake.list_objects_v2(Bucket="bucket")) == {"ResponseMetadata"}
        assert fake.get_object(**place)["Body"].read() == module.HTML_PAGE
        assert "ETag" not in fake.head_object(**place)
    assert names(fake.list_objects_v2(Bucket="bucket")) == []


def test_a_server_may_support_neither_conditions_nor_checksums(fake: FakeS3) -> None:
    place = {"Bucket": "bucket", "Key": "a", "Body": b"x"}
    with fake.faults.on(FaultKind.CONDITION_REFUSED), pytest.raises(fake.exceptions.ClientError) as caught:
        fake.put_object(**place, IfNoneMatch="*")
    assert code_of(caught) == ("NotImplemented", 501)
    with fake.faults.on(FaultKind.CHECKSUM_REFUSED), pytest.raises(fake.exceptions.ClientError) as caught:
        fake.put_object(**place, ChecksumSHA256=sha256_of(b"x"))
    assert code_of(caught) == ("InvalidRequest", 400)
    fake.put_object(**place)


def test_only_a_checksum_detects_a_damaged_upload(fake: FakeS3) -> None:
    place = {"Bucket": "bucket", "Key": "a", "Body": b"xy"}
    with fake.faults.on(FaultKind.DAMAGED_UPLOAD):
        with pytest.raises(fake.exceptions.ClientError) as caught:
            fake.put_object(**place, ChecksumSHA256=sha256_of(b"xy"))
        assert code_of(caught) == ("BadDigest", 400)
        fake.put_object(**place)
    assert fake.get_object(Bucket="bucket", Key="a")["Body"].read() == b"xx"
    answer = fake.put_object(**place, ChecksumSHA256=sha256_of(b"xy"))
    assert answer["ChecksumSHA256"] == sha256_of(b"xy")


def test_a_bucket_with_object_lock_requires_a_digest(fake: FakeS3) -> None:
    fake.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    with pytest.raises(fake.exceptions.ClientError) as caught:
        fake.put_object(Bucket="locked", Key="a", Body=b"x")
    assert code_of(caught) == ("InvalidRequest", 400)
    fake.put_object(Bucket="locked", Key="a", Body=b"x", ChecksumSHA256=sha256_of(b"x"))


def test_a_single_deletion_can_be_refused(fake: FakeS3) -> None:
    fake.put_object(Bucket="bucket", Key="a", Body=b"")
    with fake.faults.on(FaultKind.DELETION_REFUSED), pytest.raises(fake.exceptions.ClientError) as caught:
        fake.delete_object(Bucket="bucket", Key="a")
    assert code_of(caught) == ("AccessDenied", 403)


def sha256_of(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def test_a_delay_does_not_hold_the_lock() -> None:
    slept: list[float] = []
    fake = FakeS3("bucket", sleep=slept.append)
    with fake.faults.on(FaultKind.DELAY, delay_s=1.5, times=1):
        fake.put_object(Bucket="bucket", Key="a", Body=b"")
    assert slept == [1.5]


def test_the_object_store_translates_what_the_fake_raises(fake: FakeS3) -> None:
    store = S3Store("bucket", client=fake)  # type: ignore[arg-type]
    store.put_if_absent("a", b"x")
    with pytest.raises(ObjectExists):
        store.put_if_absent("a", b"y")
    with fake.faults.on(FaultKind.TRUNCATED), pytest.raises(TruncatedBody):
        store.get("a")
    with fake.faults.on(FaultKind.RESET), pytest.raises(StoreUnreachable):
        store.get("a")
