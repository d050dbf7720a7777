# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of boto3's S3 client: the same classes, made from botocore's description of the service."""

from collections.abc import Mapping
from typing import Any, Final

ENDPOINT: Final = "memory://fake-s3"

STATUS_OF: Final[Mapping[str, int]] = {
    "304": 304,
    "400": 400,
    "403": 403,
    "404": 404,
    "412": 412,
    "AccessDenied": 403,
    "BadDigest": 400,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "ConditionalRequestConflict": 409,
    "EntityTooSmall": 400,
    "InvalidArgument": 400,
    "InvalidBucketName": 400,
    "InvalidObjectState": 403,
    "InvalidPart": 400,
    "InvalidPartOrder": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "KeyTooLongError": 400,
    "MalformedXML": 400,
    "MetadataTooLarge": 400,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "NotImplemented": 501,
    "NotModified": 304,
    "PreconditionFailed": 412,
    "SlowDown": 503,
    "TooManyRequests": 429,
}
_MESSAGES: Final[Mapping[str, str]] = {
    "304": "Not Modified",
    "400": "Bad Request",
    "403": "Forbidden",
    "404": "Not Found",
    "412": "Precondition Failed",
    "AccessDenied": "Access Denied",
    "BadDigest": "The checksum you specified did not match what we received.",
    "BucketNotEmpty": "The bucket you tried to delete is not empty",
    "EntityTooSmall": "Your proposed upload is smaller than the minimum allowed size",
    "InvalidObjectState": "The operation is not valid for the object's storage class",
    "InvalidPart": "One or more of the specified parts could not be found.",
    "InvalidPartOrder": "The list of parts was not in ascending order.",
    "InvalidRange": "The requested range is not satisfiable",
    "NoSuchBucket": "The specified bucket does not exist",
    "NoSuchKey": "The specified key does not exist.",
    "NoSuchUpload": "The specified upload does not exist.",
    "NotImplemented": "A header you provided implies functionality that is not implemented.",
    "PreconditionFailed": "At least one of the pre-conditions you specified did not hold",
    "SlowDown": "Please reduce your request rate.",
    "TooManyRequests": "Too many requests.",
}


class S3Error(Exception):
    """Within the fake: an operation fails with this code; the client turns it into a ClientError."""

    def __init__(self, code: str, message: str = "", **details: str) -> None:
        super().__init__(code)
        self.code = code
        self.message = message or _MESSAGES.get(code, code)
        self.details = details


class S3Service:
    """botocore's description of S3: shapes of parameters and responses, and the classes of errors."""

    def __init__(self) -> None:
        import botocore.session
        from botocore.errorfactory import ClientExceptionsFactory
        from botocore.validate import ParamValidator

        self._session = botocore.session.Session()
        self.model = self._session.get_service_model("s3")
        self.exceptions = ClientExceptionsFactory().create_client_exceptions(self.model)
        self._validator = ParamValidator()

    def validate(self, api_name: str, parameters: Mapping[str, Any]) -> None:
        """Check parameters as boto3 does before it sends a request.

        Raises:
            botocore.exceptions.ParamValidationError: one is missing, unknown, or of a wrong type.
        """
        from botocore.exceptions import ParamValidationError

        shape = self.model.operation_model(api_name).input_shape
        assert shape is not None, f"{api_name} takes no parameters"
        report = self._validator.validate(parameters, shape)
        if report.has_errors():
            raise ParamValidationError(report=report.generate_report())

    def error(self, api_name: str, s3_error: S3Error) -> Exception:
        """The exception that boto3 raises for an error; a response to HEAD has no body, so its code is its status."""
        status = STATUS_OF[s3_error.code]
        details = {"Code": s3_error.code, "Message": s3_error.message, **s3_error.details}
        if api_name.startswith("Head"):
            details = {"Code": str(status), "Message": _MESSAGES.get(str(status), s3_error.message)}
        response = {"Error": details, "ResponseMetadata": metadata(status)}
        kind: Any = self.exceptions.from_code(details["Code"])
        made: Exception = kind(response, api_name)
        return made

    def paginator(self, name: str, method: Any) -> Any:
        """botocore's paginator over `method`."""
        from botocore import xform_name
        from botocore.paginate import Paginator

        api_name = next(one for one in self.model.operation_names if xform_name(one) == name)
        pages = self._session.get_paginator_model("s3").get_paginator(api_name)
        return Paginator(method, pages, self.model.operation_model(api_name))


def metadata(status: int) -> dict[str, Any]:
    """The ``ResponseMetadata`` of every response."""
    return {"RequestId": "FAKE", "HostId": "fake", "HTTPStatusCode": status, "HTTPHeaders": {}, "RetryAttempts": 0}


def broken_connection() -> Exception:
    """The exception of boto3 when the server closes the connection without a response."""
    from botocore.exceptions import ConnectionClosedError

    return ConnectionClosedError(endpoint_url=ENDPOINT)
