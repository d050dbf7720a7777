# SPDX-License-Identifier: GPL-3.0-or-later
"""What the responses of an S3 server mean: errors become exceptions whose text an administrator can act on.

Status, code and message suffice for that, so this module needs no S3 library. The code decides, as several share a
status; where there is none, as in any response to HEAD, the status does. Codes beyond Amazon's own are those of MinIO
and Ceph.
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


class ErrorResponse(NamedTuple):
    """An error response, and the request it answers."""

    url: str
    """Of the store."""
    endpoint: str
    """The URL of the server."""
    action: str
    """What the request was to do, such as ``put packs/00000007/3f9c``."""
    bucket: str
    status: int
    code: str
    message: str

    @property
    def text(self) -> str:
        """What the server said, shortened to one line."""
        code = "" if self.code == str(self.status) else self.code  # a response to HEAD has no code of its own
        said = " ".join(f"{self.status or ''} {code} {self.message}".split())
        return said if len(said) <= _MESSAGE_LENGTH else said[:_MESSAGE_LENGTH] + "..."

    @property
    def attempt(self) -> str:
        """How most messages begin: the store and the action."""
        return f"{self.url}: cannot {self.action}"

    @property
    def place(self) -> str:
        """How messages begin that concern every request, such as those about credentials."""
        return f"{self.url} at {self.endpoint}"


def status_of(response: Mapping[str, Any]) -> int:
    """The HTTP status of a response, or 0 where it has none."""
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_whole_object(response: Mapping[str, Any]) -> bool:
    """Whether the server ignored the range; the status alone does not show it, as rclone sends parts with 200."""
    return response["ResponseMetadata"]["HTTPStatusCode"] == 200 and not response.get("ContentRange")


def is_not_from_s3(response: Mapping[str, Any]) -> bool:
    """Whether the response is a page of HTML without any header of S3's protocol."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    is_html = str(headers.get("content-type", "")).startswith("text/html")
    return is_html and not any(name.startswith("x-amz") for name in headers)


def not_from_s3(attempt: str, lacking: str) -> StoreError:
    """The error for a response that does not come from S3; `attempt` names the store and the action."""
    return StoreBusy(
        f"{attempt}: the response is not from an S3 server, as it lacks {lacking}: check the endpoint, and what is in "
        "between (a proxy, the login page of a network)"
    )


def one_line(error: Exception) -> str:
    """The text of an error, on one line."""
    return " ".join(str(error).split())


def root_cause(error: BaseException) -> str:
    """What the operating system reported, such as ``Connection refused``; otherwise the error's own text."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        inner = getattr(seen, "kwargs", {}).get("error")
        seen = inner if isinstance(inner, BaseException) else (seen.__cause__ or seen.__context__)
    return one_line(error) if isinstance(error, Exception) else repr(error)


def permanent_tls_error(where: str, error: Exception) -> StoreError | None:
    """The exception for a failure of TLS that trying again cannot change; None for any other failure of TLS."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StoreRefused(f"{where}: its certificate is not trusted (set AWS_CA_BUNDLE): {root_cause(error)}")
    if "WRONG_VERSION_NUMBER" in str(error):
        return StoreRefused(f"{where} does not speak TLS: is it http:// instead of https:// ?")
    return None


def error_for(response: ErrorResponse) -> StoreError:
    """The exception for an error response: transient only where trying again may help."""
    by_code = _BY_CODE.get(response.code)
    if by_code is not None:
        return by_code(response)
    by_status = _BY_STATUS.get(response.status)
    if by_status is not None:
        return by_status(response)
    return _busy(response) if response.status >= 500 else _refused(response)


def _refused(response: ErrorResponse) -> StoreError:
    return StoreRefused(f"{response.attempt}: the server responded {response.text}")


def _busy(response: ErrorResponse) -> StoreError:
    return StoreBusy(f"{response.attempt}: the server responded {response.text}")


def _missing(response: ErrorResponse) -> StoreError:
    return ObjectMissing(f"{response.attempt}: there is no such object")


def _archived(response: ErrorResponse) -> StoreError:
    return ObjectArchived(
        f"{response.attempt}: it was moved to an archive: restore it there first, and keep volumes out of such classes"
    )


def _exists(response: ErrorResponse) -> StoreError:
    return ObjectExists(f"{response.attempt}: the name is taken")


def _no_bucket(response: ErrorResponse) -> StoreError:
    return StoreMissing(
        f"no such bucket: {response.bucket} at {response.endpoint} (create it first, or check URL and endpoint)"
    )


def _denied(response: ErrorResponse) -> StoreError:
    return AccessDenied(
        f"{response.attempt}: access denied: the credentials are wrong or lack a permission ({response.text})"
    )


def _unknown_key(response: ErrorResponse) -> StoreError:
    return AccessDenied(f"{response.place}: unknown access key (check AWS_ACCESS_KEY_ID or AWS_PROFILE)")


def _wrong_secret(response: ErrorResponse) -> StoreError:
    return AccessDenied(f"{response.place}: wrong secret key (check AWS_SECRET_ACCESS_KEY or AWS_PROFILE)")


def _expired(response: ErrorResponse) -> StoreError:
    return AccessDenied(
        f"{response.place}: the credentials have expired or are not valid: get new ones ({response.text})"
    )


def _clock(response: ErrorResponse) -> StoreError:
    return AccessDenied(f"{response.place}: this machine's clock differs too much from the server's: correct it")


def _full(response: ErrorResponse) -> StoreError:
    return StoreFull(f"{response.attempt}: the store is full ({response.text})")


def _region(response: ErrorResponse) -> StoreError:
    return StoreRefused(
        f"bucket {response.bucket} is in another region: set AWS_REGION or the endpoint ({response.text})"
    )


_BY_CODE: Final[Mapping[str, Callable[[ErrorResponse], StoreError]]] = {
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
    # Sent with 400, although the next attempt may succeed.
    "RequestTimeout": _busy,
    "IncompleteBody": _busy,
    "BadDigest": _busy,
    "XAmzContentSHA256Mismatch": _busy,
    # Sent for single keys, without a status.
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

_BY_STATUS: Final[Mapping[int, Callable[[ErrorResponse], StoreError]]] = {
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
