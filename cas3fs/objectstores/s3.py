# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects in a bucket of Amazon S3 or of a server that speaks its protocol, through boto3.

In the bucket a key is preceded by the URL's prefix and a slash. boto3 finds configuration and credentials; settings
that are passed here take precedence. botocore's own retries are off, as the retry wrapper knows better what may be
repeated, and so are its checksums, which many servers do not support.

A put has the header ``If-None-Match: *`` and a digest that the server verifies; the first puts find out which of these
the server supports (`s3_put_methods`). Where it does not support conditions, this store checks for the key first, which
leaves a race that `probe_create_if_absent` reports.

A response counts only if S3 sent it: that of a put has an ETag, a listing says whether it ends, a deletion names what
it deleted. Anything else comes from something in between, such as the login page of a network, and the request is tried
again.

When the server refuses the credentials and one of boto3's files has changed, they are read again, so that they can be
rotated; boto3 itself renews those that expire.

Only this module imports boto3, which takes long. Locks: one, around making the client and what is known of the server;
the client itself is thread-safe.
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
    deletion_failed,
    deliver_pieces,
    is_key,
    object_exists,
    object_too_short,
    shorten_last,
)
from cas3fs.objectstores.s3_bodies import RequestBody, ResponseBody, TransferClock
from cas3fs.objectstores.s3_put_methods import FIRST_PUT_METHOD, PutMethod, digest_parameters
from cas3fs.objectstores.s3_responses import (
    ErrorResponse,
    error_for,
    is_not_from_s3,
    is_whole_object,
    not_from_s3,
    one_line,
    permanent_tls_error,
    root_cause,
    status_of,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, ObjectIdentifierTypeDef

_log = logging.getLogger(__name__)
_CLIENT_OF_CALLER: Final[tuple[object, ...]] = ("the client was passed in",)
_RETRIED: Final = "; they have changed, and are tried again"
_RESPONSE_FORM: Final = "the form of an S3 response"
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

    lists_side_by_side = True

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        settings: StoreSettings | None = None,
        *,
        page_size: int = 1000,
        client: "S3Client | None" = None,
    ) -> None:
        """No request is made yet; the client is made of `settings` at first use, unless one is passed."""
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._bucket = bucket
        self._key_prefix = f"{prefix}/" if prefix else ""
        self._settings = settings or StoreSettings(self.url)
        self._lock = threading.Lock()
        self._page_size = page_size
        self._cached_client = client
        self._session: boto3.session.Session | None = None
        self._has_responded = False
        self._credential_files = _CLIENT_OF_CALLER if client is not None else ()
        self._put_method = FIRST_PUT_METHOD
        self._last_response_at_s = time.monotonic()

    @property
    def last_response_at_s(self) -> float:
        return self._last_response_at_s

    @property
    def _client(self) -> "S3Client":
        made = self._cached_client
        if made is not None:
            return made
        with self._lock:
            if self._cached_client is None:
                if self._session is None:
                    self._credential_files = credential_files()
                    self._session = boto3.session.Session(profile_name=self._settings.profile)
                self._cached_client = make_client(self._current_settings, self._session)
            return self._cached_client

    @property
    def _current_settings(self) -> StoreSettings:
        return self._settings if self._has_responded else self._settings.until_first_response

    def _note_response(self) -> None:
        """Note a response of the server; after the first one a client with the usual timeouts is made."""
        if self._has_responded:
            return
        with self._lock:
            self._has_responded = True
            if self._session is not None and self._settings.first_response_s is not None:
                self._cached_client = None  # requests in progress keep the old one

    def _has_new_credentials(self) -> bool:
        """Whether the files with credentials have changed; then the next request reads them again."""
        with self._lock:
            if self._credential_files == _CLIENT_OF_CALLER or self._credential_files == credential_files():
                return False
            self._cached_client = self._session = None  # requests in progress keep the old one
        _log.warning("%s: the credentials were refused; they are read again, as their file has changed", self.url)
        return True

    def close(self) -> None:
        with self._lock:
            if self._cached_client is not None:
                self._cached_client.close()

    # Putting

    def require_conditional_puts(self) -> None:
        with self._lock:
            self._put_method = self._put_method._replace(is_conditional=True, condition_is_proven=True)

    def put_if_absent(self, key: str, body: Body, metadata: Mapping[str, str] = {}) -> None:
        check_key(key)
        check_metadata(metadata)
        content: Any = bytes(body) if isinstance(body, memoryview) else body
        start = 0 if isinstance(content, bytes | bytearray) else content.tell()
        with self._translating_errors(f"put {key}") as transfer:
            method: PutMethod | None = self._put_method
            while method is not None:
                if not isinstance(content, bytes | bytearray):
                    content.seek(start)
                method = self._put(method, key, content, metadata, transfer)

    def _put(
        self, method: PutMethod, key: str, content: Any, metadata: Mapping[str, str], transfer: TransferClock
    ) -> PutMethod | None:
        """Put the object; returns the method to try next where the server does not support this one, else None."""
        if not method.is_conditional:
            self._raise_if_exists(key)
        options: dict[str, Any] = {"IfNoneMatch": "*"} if method.is_conditional else {}
        options |= digest_parameters(method.digest, content)
        try:
            body: Any = RequestBody(content, transfer.bytes_moved)
            answer = self._client.put_object(
                Bucket=self._bucket, Key=self._key_prefix + key, Body=body, Metadata=metadata, **options
            )
        except ClientError as error:
            status = status_of(error.response)
            next_method = method.next_after_refusal(status, str(error.response.get("Error", {}).get("Code", "")))
            if next_method is None and status == 412:
                self._remember(method.with_proven_condition())
            if next_method is None:
                raise
            return next_method
        self._check_is_s3(answer, f"put {key}", "ETag")
        self._remember(method.after_success(answer))
        return None

    def _remember(self, method: PutMethod) -> None:
        """Use this method for further puts."""
        with self._lock:
            self._put_method = method.merged_with(self._put_method)

    def _raise_if_exists(self, key: str) -> None:
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=self._key_prefix + key)
        except ClientError as error:
            if status_of(error.response) != 404 or is_not_from_s3(error.response):
                raise
            return
        self._check_is_s3(answer, f"look at {key}", "ETag")
        raise object_exists(self.url, key)

    # Reading

    def get(self, key: str) -> bytes:
        return self._get(key, None)

    def get_within(self, key: str, limit_bytes: int) -> bytes:
        return self._get(key, limit_bytes)

    def _get(self, key: str, limit_bytes: int | None) -> bytes:
        check_key(key)
        with self._translating_errors(f"get {key}") as transfer:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key_prefix + key)
            return self._body(key, answer, transfer).read_all(limit_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        pieces: list[bytes] = []
        self.get_pieces(key, start, (length,), pieces.append)
        return pieces[0]

    def get_pieces(
        self, key: str, start: int, lengths: Sequence[int], take: Callable[[bytes], None], *, may_end: bool = False
    ) -> None:
        check_key(key)
        check_range(start, min((0, *lengths)))
        length = sum(lengths)
        if not length:
            deliver_pieces(b"", lengths, take)
            return
        needed = sum(lengths[:-1]) + 1 if may_end else length
        with self._translating_errors(f"get {key}") as transfer:
            answer = self._ask_for_range(key, start, length, needed)
            body = self._body(key, answer, transfer)
            if not is_whole_object(answer):
                body.deliver(shorten_last(key, 0, lengths, body.length) if may_end else lengths, take)
                return
            data = body.read_all()[start : start + length]  # the server does not support ranges
        if len(data) < needed:
            raise object_too_short(key, start, needed)
        deliver_pieces(data, lengths, take)

    def _ask_for_range(self, key: str, start: int, length: int, needed: int) -> "GetObjectOutputTypeDef":
        """Ask for a range, of which at least the first `needed` bytes must exist."""
        try:
            wanted = f"bytes={start}-{start + length - 1}"
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key_prefix + key, Range=wanted)
        except ClientError as error:
            if status_of(error.response) == 416:
                raise object_too_short(key, start, length) from error
            raise
        if not is_whole_object(answer) and not needed <= answer.get("ContentLength", length) <= length:
            answer["Body"].close()
            raise object_too_short(key, start, length)
        return answer

    def _body(self, key: str, answer: "GetObjectOutputTypeDef", transfer: TransferClock) -> ResponseBody:
        try:
            self._check_is_s3(answer, f"get {key}", "ETag", "ContentLength")
        except StoreError:
            answer["Body"].close()
            raise

        def on_piece() -> None:
            self._last_response_at_s = time.monotonic()
            transfer.bytes_moved()

        return ResponseBody(f"{self.url}: {key}", key, answer["Body"], answer["ContentLength"], on_piece)

    def head(self, key: str) -> ObjectInfo:
        check_key(key)
        try:
            with self._translating_errors(f"look at {key}"):
                answer = self._client.head_object(Bucket=self._bucket, Key=self._key_prefix + key)
                self._check_is_s3(answer, f"look at {key}", "ETag", "ContentLength", "LastModified")
        except ObjectMissing:
            self._check_bucket()
            raise
        # Some servers change the case of the names.
        metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"], metadata)

    def _check_bucket(self) -> None:
        """Raise StoreMissing where there is no bucket: the response to a HEAD of an object does not show that."""
        try:
            with self._translating_errors("look at the bucket"):
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectMissing:
            raise self._error("look at the bucket", 404, "NoSuchBucket", None) from None
        except AccessDenied:
            return  # access to objects may be all that is allowed

    # Listing and deleting

    def list_page(self, prefix: str = "", start_after: str = "") -> ListPage:
        check_prefix(prefix)
        found, more = self._list_objects(self._key_prefix + prefix, self._key_prefix + start_after)
        if any(one.key >= next_one.key for one, next_one in pairwise(found)) or (found and found[0].key <= start_after):
            # transient: some servers do so for an instant while objects are created; where a server always does, the
            # error shows when the retries end
            raise TransientStoreError(
                f"{self.url}: the server lists keys out of order or twice, and cas3fs relies on the order"
            )
        # Other objects, such as the empty ones with which some tools mark folders, are skipped.
        objects = [info for info in found if is_key(info.key)]
        return ListPage(objects, found[-1].key if more else None)

    def _list_objects(self, prefix: str, start_after: str) -> tuple[list[ObjectInfo], bool]:
        """At least one object, unless there are no more; and whether there are more."""
        token = ""
        while True:
            with self._translating_errors("list it"):
                position: dict[str, Any] = {"ContinuationToken": token} if token else {"StartAfter": start_after}
                answer = self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=prefix, MaxKeys=self._page_size, **position
                )
                self._check_is_s3(answer, "list it", "IsTruncated")
                for one in answer.get("Contents", ()):
                    self._check_is_s3(one, "list it", "Key", "Size", "LastModified")
            found = [
                ObjectInfo(one["Key"][len(self._key_prefix) :], one["Size"], one["LastModified"])
                for one in answer.get("Contents", ())
                if one["Key"] != self._key_prefix
            ]
            token = answer.get("NextContinuationToken", "") if answer["IsTruncated"] else ""
            if found or not token:
                return found, bool(answer["IsTruncated"])

    def delete_many(self, keys: Iterable[str]) -> None:
        refused: dict[str, StoreError] = {}
        for batch in batches(check_key(key) for key in keys):
            refused |= self._delete_batch(batch)
        # A retry deletes the same keys again, so a transient error takes precedence: the retry finds what stays
        # refused.
        if transient := next((error for error in refused.values() if isinstance(error, TransientStoreError)), None):
            raise transient
        if refused:
            raise deletion_failed(self.url, refused)

    def _delete_batch(self, keys: list[str]) -> dict[str, StoreError]:
        """Delete the objects; returns the error of each key that the server refused to delete."""
        names: list[ObjectIdentifierTypeDef] = [{"Key": self._key_prefix + key} for key in keys]
        try:
            with self._translating_errors(f"delete {len(keys)} objects"):
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": names})
        except StoreRefused:  # not every server can delete several at once
            return self._delete_singly(keys)
        failed: dict[str, StoreError] = {}
        for error in answer.get("Errors", ()):
            key = error.get("Key", "")[len(self._key_prefix) :]
            if error.get("Code") not in _MISSING_CODES:
                failed[key] = self._error(f"delete {key}", 0, error.get("Code"), error.get("Message"))
        answered = {one.get("Key") for one in answer.get("Deleted", ())}
        answered |= {one.get("Key") for one in answer.get("Errors", ())}
        if unanswered := [one["Key"] for one in names if one["Key"] not in answered]:
            raise not_from_s3(f"{self.url}: cannot delete {len(keys)} objects", f"a result for {unanswered[0]}")
        return failed

    def _delete_singly(self, keys: list[str]) -> dict[str, StoreError]:
        failed: dict[str, StoreError] = {}
        for key in keys:
            try:
                with self._translating_errors(f"delete {key}"):
                    answer = self._client.delete_object(Bucket=self._bucket, Key=self._key_prefix + key)
                    if is_not_from_s3(answer):
                        raise not_from_s3(f"{self.url}: cannot delete {key}", _RESPONSE_FORM)
            except ObjectMissing:
                pass
            except TransientStoreError:
                raise
            except StoreError as error:
                failed[key] = error
        return failed

    # Errors

    @contextmanager
    def _translating_errors(self, action: str) -> Iterator[TransferClock]:
        """Translate exceptions of boto3 into those of cas3fs, which know how long bytes were in transfer."""
        transfer = TransferClock()
        try:
            with self._raising_store_errors(action):
                yield transfer
        except TransientStoreError as error:
            error.transfer_s = transfer.seconds
            raise

    @contextmanager
    def _raising_store_errors(self, action: str) -> Iterator[None]:
        try:
            yield
            self._last_response_at_s = time.monotonic()
            self._note_response()
        except ClientError as error:
            self._note_response()
            refused = self._error_of_response(action, error.response)
            if isinstance(refused, AccessDenied) and self._has_new_credentials():
                raise StoreBusy(f"{refused}{_RETRIED}") from error
            raise refused from error
        except ResponseParserError as error:
            raise not_from_s3(f"{self.url}: cannot {action}", _RESPONSE_FORM) from error
        except (BotoCoreError, OSError) as error:
            failed = self._transport_error(error, action)
            if isinstance(failed, AccessDenied) and self._has_new_credentials():
                raise StoreBusy(f"{failed}{_RETRIED}") from error
            raise failed from error
        except RecursionError as error:  # botocore follows such redirects endlessly
            raise self._error(action, 301, None, "to everything") from error

    def _check_is_s3(self, answer: Mapping[str, Any], action: str, *fields: str) -> None:
        """Raise StoreBusy where a response lacks a field that S3 always sends."""
        lacking = next((name for name in fields if name not in answer), None)
        if lacking is not None or is_not_from_s3(answer):
            raise not_from_s3(f"{self.url}: cannot {action}", lacking or _RESPONSE_FORM)

    def _error_of_response(self, action: str, response: Mapping[str, Any]) -> StoreError:
        status, details = status_of(response), response.get("Error", {})
        code = str(details.get("Code", ""))
        if is_not_from_s3(response) and code in ("", str(status)) and 400 <= status < 500:
            return not_from_s3(f"{self.url}: cannot {action}: {status}", _RESPONSE_FORM)
        return self._error(action, status, code, details.get("Message"))

    def _error(self, action: str, status: int, code: str | None, message: str | None) -> StoreError:
        where = self._client.meta.endpoint_url
        return error_for(ErrorResponse(self.url, where, action, self._bucket, status, code or "", message or ""))

    def _transport_error(self, error: Exception, action: str) -> StoreError:
        if isinstance(error, MetadataRetrievalError):
            return StoreUnreachable(f"{self.url}: no response from the service that provides credentials: {error}")
        if isinstance(error, _NO_CREDENTIALS):
            return AccessDenied(f"{self.url}: no usable credentials: {one_line(error)} (set AWS_PROFILE, or both keys)")
        if isinstance(error, IncompleteReadError | ResponseStreamingError):
            return TruncatedBody(f"{self.url}: cannot {action}: the response ended early")
        where = self.url if self._cached_client is None else self._cached_client.meta.endpoint_url
        if isinstance(error, SSLError) and (refused := permanent_tls_error(where, error)):
            return refused
        if isinstance(error, ReadTimeoutError):
            limit_s = min(_READ_TIMEOUT_S, self._current_settings.timeout_s or _READ_TIMEOUT_S)
            return StoreUnreachable(f"{where} sent no response within {limit_s:.0f} s: cannot {action} in {self.url}")
        if isinstance(error, ConnectionClosedError):
            return StoreUnreachable(f"cannot reach {where} for {self.url}: it closed the connection without a response")
        if isinstance(error, BotoConnectionError | HTTPClientError | OSError):
            return StoreUnreachable(f"cannot reach {where} for {self.url}: {root_cause(error)}")
        return StoreRefused(f"{self.url}: cannot {action}: {one_line(error)}")


def credential_files() -> tuple[object, ...]:
    """Paths, times and sizes of boto3's files with credentials: they differ where a file has changed."""
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
    """A client as this store needs it; a second one of the same `session` takes a tenth of the time.

    Raises:
        UsageError: the endpoint is no URL.
    """
    try:
        session = session or boto3.session.Session(profile_name=settings.profile)
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
        # with it botocore asks before it sends a body: that costs a round trip, or a second without a response
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client
    except ValueError as error:
        raise UsageError(f"the S3 endpoint is not valid: {one_line(error)}") from error
