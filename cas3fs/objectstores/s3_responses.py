# SPDX-License-Identifier: GPL-3.0-or-later
"""What an S3 server's answers mean; a refusal as an exception whose text an administrator can act on.

It works on the answer's status, code and message alone, so it needs no S3 library. Codes come first, as several share a
status; servers that send no code (any answer to HEAD) are judged by the status. Codes beyond Amazon's own are those of
MinIO and Ceph.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from cas3fs.errors import (
    AccessDenied,
    ObjectArchived,
    ObjectExists,
    ObjectMissing,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreRefused,
)

_MESSAGE_LENGTH: Final = 300


class Answer(NamedTuple):
    """A refusal, and to what."""

    url: str
    """The store's."""
    endpoint: str
    """The server's."""
    action: str
    """What was tried, such as ``put packs/00000007/3f9c``."""
    bucket: str
    status: int
    code: str
    message: str

    @property
    def words(self) -> str:
        """What the server said, on one line and not without end."""
        code = "" if self.code == str(self.status) else self.code  # an answer to HEAD has no code of its own
        said = " ".join(f"{self.status or ''} {code} {self.message}".split())
        return said if len(said) <= _MESSAGE_LENGTH else said[:_MESSAGE_LENGTH] + "..."

    @property
    def attempt(self) -> str:
        """The beginning of most texts: where and what."""
        return f"{self.url}: cannot {self.action}"

    @property
    def place(self) -> str:
        """The beginning of the others: what goes wrong with everything there, such as credentials."""
        return f"{self.url} at {self.endpoint}"


def status_of(response: Mapping[str, Any]) -> int:
    """The HTTP status of an answer, an error's or not; 0 where it tells none."""
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_whole(answer: Mapping[str, Any]) -> bool:
    """Whether a range was not heeded; the status alone does not tell, as rclone gives parts with 200."""
    return answer["ResponseMetadata"]["HTTPStatusCode"] == 200 and not answer.get("ContentRange")


def is_foreign(answer: Mapping[str, Any]) -> bool:
    """Whether a page of HTML came in place of an answer; what comes from an S3 server has a header of its protocol."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    is_html = str(headers.get("content-type", "")).startswith("text/html")
    return is_html and not any(name.startswith("x-amz") for name in headers)


def not_its_own(attempt: str, lacking: str) -> StoreError:
    """The error for an answer that is not S3's own; `attempt` says where and what was tried."""
    return StoreBusy(
        f"{attempt}: the answer is not an S3 server's, it lacks {lacking}: check the endpoint, and what lies in between"
        " (a proxy, the login page of a network)"
    )


def line_of(error: Exception) -> str:
    """Its text, on one line."""
    return " ".join(str(error).split())


def reason_of(error: BaseException) -> str:
    """What the system said at the bottom, such as ``Connection refused``; otherwise the error's own words."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        inner = getattr(seen, "kwargs", {}).get("error")
        seen = inner if isinstance(inner, BaseException) else (seen.__cause__ or seen.__context__)
    return line_of(error) if isinstance(error, Exception) else repr(error)


def no_tls(where: str, error: Exception) -> StoreError | None:
    """The exception for a TLS that will not come about however often it is tried; None for other troubles with it."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StoreRefused(f"{where}: its certificate is not trusted (set AWS_CA_BUNDLE): {reason_of(error)}")
    if "WRONG_VERSION_NUMBER" in str(error):
        return StoreRefused(f"{where} does not speak TLS: is it http:// instead of https:// ?")
    return None


def translate(answer: Answer) -> StoreError:
    """The exception for a refusal: transient only where asking again may help."""
    by_code = _BY_CODE.get(answer.code)
    if by_code is not None:
        return by_code(answer)
    by_status = _BY_STATUS.get(answer.status)
    if by_status is not None:
        return by_status(answer)
    return _busy(answer) if answer.status >= 500 else _refused(answer)


def _refused(answer: Answer) -> StoreError:
    return StoreRefused(f"{answer.attempt}: the server answers {answer.words}")


def _busy(answer: Answer) -> StoreError:
    return StoreBusy(f"{answer.attempt}: the server answers {answer.words}")


def _missing(answer: Answer) -> StoreError:
    return ObjectMissing(f"{answer.attempt}: there is no such object")


def _archived(answer: Answer) -> StoreError:
    return ObjectArchived(
        f"{answer.attempt}: it was moved to an archive: restore it there first, and keep volumes out of such classes"
    )


def _exists(answer: Answer) -> StoreError:
    return ObjectExists(f"{answer.attempt}: the name is taken")


def _no_bucket(answer: Answer) -> StoreError:
    return StoreMissing(
        f"no such bucket: {answer.bucket} at {answer.endpoint} (make it first, or check URL and endpoint)"
    )


def _denied(answer: Answer) -> StoreError:
    return AccessDenied(f"{answer.attempt}: access denied: wrong credentials, or they lack the right ({answer.words})")


def _unknown_key(answer: Answer) -> StoreError:
    return AccessDenied(f"{answer.place}: unknown access key (check AWS_ACCESS_KEY_ID or AWS_PROFILE)")


def _wrong_secret(answer: Answer) -> StoreError:
    return AccessDenied(f"{answer.place}: wrong secret key (check AWS_SECRET_ACCESS_KEY or AWS_PROFILE)")


def _expired(answer: Answer) -> StoreError:
    return AccessDenied(f"{answer.place}: the credentials have expired or are not valid: get new ones ({answer.words})")


def _clock(answer: Answer) -> StoreError:
    return AccessDenied(f"{answer.place}: this machine's clock is too far from the server's: set it right")


def _full(answer: Answer) -> StoreError:
    return StoreFull(f"{answer.attempt}: the store is full ({answer.words})")


def _region(answer: Answer) -> StoreError:
    return StoreRefused(f"bucket {answer.bucket} is served elsewhere: set AWS_REGION or the endpoint ({answer.words})")


_BY_CODE: Final[Mapping[str, Callable[[Answer], StoreError]]] = {
    "NoSuchKey": _missing,
    "NoSuchBucket": _no_bucket,
    "InvalidObjectState": _archived,
    "PreconditionFailed": _exists,
    "ConditionalRequestConflict": _busy,
    "OperationAborted": _busy,
    "AccessDenied": _denied,
    "AllAccessDisabled": _denied,
    "InvalidAccessKeyId": _unknown_key,
    "SignatureDoesNotMatch": _wrong_secret,
    "ExpiredToken": _expired,
    "InvalidToken": _expired,
    "TokenRefreshRequired": _expired,
    "RequestTimeTooSkewed": _clock,
    "RequestExpired": _clock,
    "PermanentRedirect": _region,
    "AuthorizationHeaderMalformed": _region,
    "IllegalLocationConstraintException": _region,
    # Said with 400, though the next attempt may well arrive whole.
    "RequestTimeout": _busy,
    "IncompleteBody": _busy,
    "BadDigest": _busy,
    "XAmzContentSHA256Mismatch": _busy,
    # Said of single keys, without a status.
    "InternalError": _busy,
    "ServiceUnavailable": _busy,
    "SlowDown": _busy,
    "Throttling": _busy,
    "ThrottlingException": _busy,
    "RequestLimitExceeded": _busy,
    "TooManyRequests": _busy,
    "QuotaExceeded": _full,
    "XMinioStorageFull": _full,
    "XMinioAdminBucketQuotaExceeded": _full,
    "InsufficientStorage": _full,
    "NotImplemented": _refused,
}

_BY_STATUS: Final[Mapping[int, Callable[[Answer], StoreError]]] = {
    301: _region,
    401: _denied,
    403: _denied,
    404: _missing,
    408: _busy,
    409: _busy,
    412: _exists,
    425: _busy,
    429: _busy,
    501: _refused,
    505: _refused,
    507: _full,
}
