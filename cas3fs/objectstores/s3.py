# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects in a bucket of Amazon S3 or of a server that speaks its protocol, through boto3.

The key of an object is the URL's prefix, a slash, and the key. Configuration and credentials are found as boto3 finds
them; what is passed here goes first. botocore's own retries are off, as the retry wrapper knows better what may be
repeated, and so are its checksums, which many servers stumble over.

Creating goes with ``If-None-Match: *`` and a digest of the bytes that the server verifies. What a server does not know
is found out by the first puts (`s3_put_methods`). Without conditions this store looks first and puts then, which
leaves a gap between the two that `probe_create_if_absent` reports.

An answer counts when it is S3's own: a put's has an ETag, a listing says whether it ends, a deletion names what it
deleted. Anything else comes from something in between, such as the login page of a network, and is tried again.

Credentials that the server refuses are read again where one of boto3's files has changed since, as whoever rotates
them expects; those that boto3 renews by itself are its business.

Only this module imports boto3. Locks: one, around making the client and what is known of the server; the client itself
is thread-safe.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    ConnectionClosedError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.handlers import add_expect_header
from botocore.parsers import ResponseParserError

from cas3fs.config import StoreSettings
from cas3fs.errors import (
    AccessDenied,
    DeleteFailed,
    ObjectExists,
    ObjectMissing,
    StoreBusy,
    StoreError,
    StoreRefused,
    StoreUnreachable,
    TransientStoreError,
    TruncatedBody,
    UsageError,
)
from cas3fs.objectstores.base import (
    Body,
    ListPage,
    ObjectInfo,
    ObjectStore,
    batches,
    check_key,
    check_metadata,
    check_prefix,
    check_range,
    cut_up,
    is_key,
    too_short,
)
from cas3fs.objectstores.s3_bodies import AnswerBody, Moving, SentBody
from cas3fs.objectstores.s3_put_methods import FIRST_WAY, PutMethod, digests_of
from cas3fs.objectstores.s3_responses import (
    Answer,
    is_foreign,
    is_whole,
    line_of,
    no_tls,
    not_its_own,
    reason_of,
    status_of,
    translate,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, ObjectIdentifierTypeDef

_log = logging.getLogger(__name__)
_NOT_OURS: Final[tuple[object, ...]] = ("not made here",)
_CONNECT_TIMEOUT_S: Final = 10
_READ_TIMEOUT_S: Final = 60
_DEFAULT_REGION: Final = "us-east-1"
_MISSING_CODES: Final = ("NoSuchKey", "404")
_NO_CREDENTIALS: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    NoAuthTokenError,
    TokenRetrievalError,
    ProfileNotFound,
    ConfigParseError,
)


class S3Store(ObjectStore):
    """The objects of a bucket whose names begin with a prefix."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        settings: StoreSettings | None = None,
        *,
        page_size: int = 1000,
        client: "S3Client | None" = None,
    ) -> None:
        """Nothing is asked of the server yet; the client is made at first use of `settings`, unless one is given."""
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""
        self._settings = settings or StoreSettings(self.url)
        self._lock = threading.Lock()
        self._page_size = page_size
        self._made = client
        self._session: boto3.session.Session | None = None
        self._has_responded = False
        self._files = _NOT_OURS if client is not None else ()
        self._way = FIRST_WAY
        self._heard_s = time.monotonic()

    @property
    def last_response_at_s(self) -> float:
        return self._heard_s

    @property
    def _client(self) -> "S3Client":
        made = self._made
        if made is not None:
            return made
        with self._lock:
            if self._made is None:
                if self._session is None:
                    self._files = credential_files()
                    self._session = boto3.session.Session()
                self._made = make_client(self._current_settings, self._session)
            return self._made

    @property
    def _current_settings(self) -> StoreSettings:
        return self._settings if self._has_responded else self._settings.until_first_response

    def _has_heard(self) -> None:
        """The server has answered; from the first time on another client waits as long as is usual."""
        if self._has_responded:
            return
        with self._lock:
            self._has_responded = True
            if self._session is not None and self._settings.first_response_s is not None:
                self._made = None  # who is under way keeps the one it has

    def _has_new_credentials(self) -> bool:
        """Whether the files that credentials come from have changed; then they are read at the next request."""
        with self._lock:
            if self._files == _NOT_OURS or self._files == credential_files():
                return False
            self._made = self._session = None  # who is under way keeps the one it has
        _log.warning("%s: the credentials were refused, and are read again, as their file has changed", self.url)
        return True

    def close(self) -> None:
        with self._lock:
            if self._made is not None:
                self._made.close()

    # Putting

    def require_conditions(self) -> None:
        with self._lock:
            self._way = self._way._replace(is_conditional=True, has_honoured=True)

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        check_key(key)
        check_metadata(metadata)
        content: Any = bytes(body) if isinstance(body, memoryview) else body
        start = 0 if isinstance(content, bytes | bytearray) else content.tell()
        with self._translated(f"put {key}") as moving:
            way: PutMethod | None = self._way
            while way is not None:
                if not isinstance(content, bytes | bytearray):
                    content.seek(start)
                way = self._put(way, key, content, metadata, moving)

    def _put(
        self, way: PutMethod, key: str, content: Any, metadata: Mapping[str, str], moving: Moving
    ) -> PutMethod | None:
        """None when it is done; otherwise the way to try next, as the server does not know this one."""
        if not way.is_conditional:
            self._refuse_existing(key)
        options: dict[str, Any] = {"IfNoneMatch": "*"} if way.is_conditional else {}
        options |= digests_of(way.digest, content)
        try:
            body: Any = SentBody(content, moving.note)
            answer = self._client.put_object(
                Bucket=self._bucket, Key=self._base + key, Body=body, Metadata=metadata, **options
            )
        except ClientError as error:
            status = status_of(error.response)
            next_way = way.after_refusal(status, str(error.response.get("Error", {}).get("Code", "")))
            if next_way is None and status == 412:
                self._learn(way.once_honoured())
            if next_way is None:
                raise
            return next_way
        self._check_own(answer, f"put {key}", "ETag")
        self._learn(way.after_success(answer))
        return None

    def _learn(self, way: PutMethod) -> None:
        """From now on puts go this way."""
        with self._lock:
            self._way = way.with_knowledge_of(self._way)

    def _refuse_existing(self, key: str) -> None:
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=self._base + key)
        except ClientError as error:
            if status_of(error.response) != 404 or is_foreign(error.response):
                raise
            return
        self._check_own(answer, f"look at {key}", "ETag")
        raise ObjectExists(f"{self.url} already has an object {key}")

    # Reading

    def get(self, key: str) -> bytes:
        return self._get(key, None)

    def get_within(self, key: str, limit_bytes: int) -> bytes:
        return self._get(key, limit_bytes)

    def _get(self, key: str, limit_bytes: int | None) -> bytes:
        check_key(key)
        with self._translated(f"get {key}") as moving:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._base + key)
            return self._body(key, answer, moving).whole(limit_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        pieces: list[bytes] = []
        self.get_pieces(key, start, (length,), pieces.append)
        return pieces[0]

    def get_pieces(self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None]) -> None:
        check_key(key)
        check_range(start, min((0, *lengths)))
        length = sum(lengths)
        with self._translated(f"get {key}") as moving:
            answer = self._ask_for_range(key, start, length) if length else None
            if answer is not None and not is_whole(answer):
                self._body(key, answer, moving).hand_out(lengths, take)
                return
            # a server that does not know ranges gives all of it
            data = b"" if answer is None else self._body(key, answer, moving).whole()[start : start + length]
        if len(data) != length:
            raise too_short(key, start, length)
        cut_up(data, lengths, take)

    def _ask_for_range(self, key: str, start: int, length: int) -> "GetObjectOutputTypeDef":
        try:
            wanted = f"bytes={start}-{start + length - 1}"
            answer = self._client.get_object(Bucket=self._bucket, Key=self._base + key, Range=wanted)
        except ClientError as error:
            if status_of(error.response) == 416:
                raise too_short(key, start, length) from error
            raise
        if not is_whole(answer) and answer.get("ContentLength", length) != length:
            answer["Body"].close()
            raise too_short(key, start, length)
        return answer

    def get_suffix(self, key: str, length: int) -> bytes:
        check_key(key)
        check_range(0, length)
        if length == 0:
            return b""
        with self._translated(f"get {key}") as moving:
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._base + key, Range=f"bytes=-{length}")
            except ClientError as error:
                if status_of(error.response) != 416:  # some servers refuse so what is shorter, or empty
                    raise
                answer = self._client.get_object(Bucket=self._bucket, Key=self._base + key)
            data = self._body(key, answer, moving).whole()
        return data[-length:]

    def _body(self, key: str, answer: "GetObjectOutputTypeDef", moving: Moving) -> AnswerBody:
        try:
            self._check_own(answer, f"get {key}", "ETag", "ContentLength")
        except StoreError:
            answer["Body"].close()
            raise

        def heard() -> None:
            self._heard_s = time.monotonic()
            moving.note()

        return AnswerBody(f"{self.url}: {key}", key, answer["Body"], answer["ContentLength"], heard)

    def head(self, key: str) -> ObjectInfo:
        check_key(key)
        try:
            with self._translated(f"look at {key}"):
                answer = self._client.head_object(Bucket=self._bucket, Key=self._base + key)
                self._check_own(answer, f"look at {key}", "ETag", "ContentLength", "LastModified")
        except ObjectMissing:
            self._check_bucket()
            raise
        # Some servers change the case of the names.
        metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"], metadata)

    def _check_bucket(self) -> None:
        """Raise StoreMissing when there is no bucket: the answer to a HEAD of an object does not tell."""
        try:
            with self._translated("look at the bucket"):
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectMissing:
            raise self._refusal("look at the bucket", 404, "NoSuchBucket", None) from None
        except AccessDenied:
            return  # looking at objects may be all that is allowed

    # Listing and deleting

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        check_prefix(prefix)
        found, more = self._list_some(self._base + prefix, self._base + start_after)
        if any(one.key >= next_one.key for one, next_one in pairwise(found)) or (found and found[0].key <= start_after):
            # transient: some servers do so for an instant while somebody else creates names; from one that always does
            # it comes out when the retries end
            raise TransientStoreError(
                f"{self.url}: the server lists names out of order or twice, and cas3fs relies on the order"
            )
        # What is not ours, such as the empty objects that stand for folders in some tools, is passed over.
        objects = [info for info in found if is_key(info.key)]
        return ListPage(objects, found[-1].key if more else None)

    def _list_some(self, prefix: str, start_after: str) -> tuple[list[ObjectInfo], bool]:
        """At least one object, unless there are no more; and whether there are."""
        token = ""
        while True:
            with self._translated("list it"):
                position: dict[str, Any] = {"ContinuationToken": token} if token else {"StartAfter": start_after}
                answer = self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=prefix, MaxKeys=self._page_size, **position
                )
                self._check_own(answer, "list it", "IsTruncated")
                for one in answer.get("Contents", ()):
                    self._check_own(one, "list it", "Key", "Size", "LastModified")
            found = [
                ObjectInfo(one["Key"][len(self._base) :], one["Size"], one["LastModified"])
                for one in answer.get("Contents", ())
                if one["Key"] != self._base
            ]
            token = answer.get("NextContinuationToken", "") if answer["IsTruncated"] else ""
            if found or not token:
                return found, bool(answer["IsTruncated"])

    def delete_many(self, keys: Iterable[str]) -> None:
        refused: dict[str, StoreError] = {}
        for batch in batches(check_key(key) for key in keys):
            refused |= self._delete_batch(batch)
        # The same keys may be deleted again, so what may pass goes first: then the retry finds what stays refused.
        if transient := next((error for error in refused.values() if isinstance(error, TransientStoreError)), None):
            raise transient
        if refused:
            key, reason = next(iter(refused.items()))
            text = f"{len(refused)} objects of {self.url} could not be deleted, such as {key}: {reason}"
            raise DeleteFailed(text, tuple(refused))

    def _delete_batch(self, keys: list[str]) -> dict[str, StoreError]:
        """The keys that were refused, with the reason."""
        names: list[ObjectIdentifierTypeDef] = [{"Key": self._base + key} for key in keys]
        try:
            with self._translated(f"delete {len(keys)} objects"):
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": names})
        except StoreRefused:  # not every server deletes several at once
            return self._delete_singly(keys)
        failed: dict[str, StoreError] = {}
        for error in answer.get("Errors", ()):
            key = error.get("Key", "")[len(self._base) :]
            if error.get("Code") not in _MISSING_CODES:
                failed[key] = self._refusal(f"delete {key}", 0, error.get("Code"), error.get("Message"))
        answered = {one.get("Key") for one in answer.get("Deleted", ())}
        answered |= {one.get("Key") for one in answer.get("Errors", ())}
        if unanswered := [one["Key"] for one in names if one["Key"] not in answered]:
            raise not_its_own(f"{self.url}: cannot delete {len(keys)} objects", f"a word on {unanswered[0]}")
        return failed

    def _delete_singly(self, keys: list[str]) -> dict[str, StoreError]:
        failed: dict[str, StoreError] = {}
        for key in keys:
            try:
                with self._translated(f"delete {key}"):
                    answer = self._client.delete_object(Bucket=self._bucket, Key=self._base + key)
                    if is_foreign(answer):
                        raise not_its_own(f"{self.url}: cannot delete {key}", "the form of S3's answers")
            except ObjectMissing:
                pass
            except TransientStoreError:
                raise
            except StoreError as error:
                failed[key] = error
        return failed

    # Errors

    @contextmanager
    def _translated(self, action: str) -> Iterator[Moving]:
        """Turn what boto3 raises into the exceptions of cas3fs, which say for how long bytes had moved."""
        moving = Moving()
        try:
            with self._as_our_own(action):
                yield moving
        except TransientStoreError as error:
            error.moving_s = moving.seconds
            raise

    @contextmanager
    def _as_our_own(self, action: str) -> Iterator[None]:
        try:
            yield
            self._heard_s = time.monotonic()
            self._has_heard()
        except ClientError as error:
            self._has_heard()
            refused = self._refused(action, error.response)
            if isinstance(refused, AccessDenied) and self._has_new_credentials():
                raise StoreBusy(f"{refused}; they were changed, and are tried") from error
            raise refused from error
        except ResponseParserError as error:
            raise not_its_own(f"{self.url}: cannot {action}", "the form of S3's answers") from error
        except (BotoCoreError, OSError) as error:
            failed = self._transport_error(error, action)
            if isinstance(failed, AccessDenied) and self._has_new_credentials():
                raise StoreBusy(f"{failed}; they were changed, and are tried") from error
            raise failed from error
        except RecursionError as error:  # botocore follows such answers by asking again, without an end
            raise self._refusal(action, 301, None, "to everything") from error

    def _check_own(self, answer: Mapping[str, Any], action: str, *fields: str) -> None:
        """Raises StoreBusy where an answer lacks what S3's own always has."""
        lacking = next((name for name in fields if name not in answer), None)
        if lacking is not None or is_foreign(answer):
            raise not_its_own(f"{self.url}: cannot {action}", lacking or "the form of S3's answers")

    def _refused(self, action: str, response: Mapping[str, Any]) -> StoreError:
        status, told = status_of(response), response.get("Error", {})
        code = str(told.get("Code", ""))
        if is_foreign(response) and code in ("", str(status)) and 400 <= status < 500:
            return not_its_own(f"{self.url}: cannot {action}: {status}", "the form of S3's answers")
        return self._refusal(action, status, code, told.get("Message"))

    def _refusal(self, action: str, status: int, code: str | None, message: str | None) -> StoreError:
        where = self._client.meta.endpoint_url
        return translate(Answer(self.url, where, action, self._bucket, status, code or "", message or ""))

    def _transport_error(self, error: Exception, action: str) -> StoreError:
        if isinstance(error, MetadataRetrievalError):
            return StoreUnreachable(f"{self.url}: no answer from the service that gives credentials: {error}")
        if isinstance(error, _NO_CREDENTIALS):
            return AccessDenied(f"{self.url}: no usable credentials: {line_of(error)} (set AWS_PROFILE, or both keys)")
        if isinstance(error, IncompleteReadError | ResponseStreamingError):
            return TruncatedBody(f"{self.url}: cannot {action}: the answer broke off")
        where = self.url if self._made is None else self._made.meta.endpoint_url
        if isinstance(error, SSLError) and (refused := no_tls(where, error)):
            return refused
        if isinstance(error, ReadTimeoutError):
            limit_s = min(_READ_TIMEOUT_S, self._current_settings.timeout_s or _READ_TIMEOUT_S)
            return StoreUnreachable(f"{where} gave no answer within {limit_s:.0f} s: cannot {action} in {self.url}")
        if isinstance(error, ConnectionClosedError):
            return StoreUnreachable(f"cannot reach {where} for {self.url}: it closed the connection without an answer")
        if isinstance(error, BotoConnectionError | HTTPClientError | OSError):
            return StoreUnreachable(f"cannot reach {where} for {self.url}: {reason_of(error)}")
        return StoreRefused(f"{self.url}: cannot {action}: {line_of(error)}")


def credential_files() -> tuple[object, ...]:
    """What tells whether boto3's files with credentials have changed: their places, times and sizes."""
    found: list[object] = []
    for variable, usual in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")):
        path = Path(os.environ.get(variable) or f"~/.aws/{usual}").expanduser()
        try:
            status = path.stat()
            found.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
        except (OSError, RuntimeError):
            found.append((path, None))
    return tuple(found)


def make_client(settings: StoreSettings, session: boto3.session.Session | None = None) -> "S3Client":
    """A client as this store needs it; a second one of a `session` takes a tenth of the time.

    Raises:
        UsageError: the endpoint is no URL.
    """
    try:
        session = session or boto3.session.Session()
        client = session.client(
            "s3",
            endpoint_url=settings.endpoint_url,
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=settings.secret_key,
            region_name=settings.region or session.region_name or _DEFAULT_REGION,
            config=Config(
                retries={"total_max_attempts": 1},
                connect_timeout=min(_CONNECT_TIMEOUT_S, settings.timeout_s or _CONNECT_TIMEOUT_S),
                read_timeout=min(_READ_TIMEOUT_S, settings.timeout_s or _READ_TIMEOUT_S),
                max_pool_connections=settings.max_concurrency,
                tcp_keepalive=True,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        # botocore would ask before it sends anything, and wait: a round trip, or a second where nobody answers
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client
    except ValueError as error:
        raise UsageError(f"the S3 endpoint makes no sense: {line_of(error)}") from error
