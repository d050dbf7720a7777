# SPDX-License-Identifier: GPL-3.0-or-later
"""Listings of the fake S3: a page of ListObjectsV2 from a dictionary of objects."""

from collections.abc import Mapping
from typing import Any

from cas3fs.testing.s3_errors import S3Refusal
from cas3fs.testing.s3_state import StoredObject

_TOKEN = "after:"


def list_objects(
    objects: Mapping[str, StoredObject],
    bucket: str,
    *,
    Prefix: str = "",
    Delimiter: str = "",
    StartAfter: str = "",
    ContinuationToken: str = "",
    MaxKeys: int = 1000,
    EncodingType: str = "",
    FetchOwner: bool = False,
) -> dict[str, Any]:
    """The answer, without its metadata. Names ascend by their bytes."""
    if ContinuationToken and not ContinuationToken.startswith(_TOKEN):
        raise S3Refusal("InvalidArgument", "The continuation token provided is incorrect")
    after = ContinuationToken.removeprefix(_TOKEN) or StartAfter
    limit = min(MaxKeys, 1000)
    found, more = _some(objects, Prefix, Delimiter, after, limit)
    answer: dict[str, Any] = {
        "Name": bucket,
        "Prefix": Prefix,
        "MaxKeys": MaxKeys,
        "KeyCount": len(found),
        "IsTruncated": more,
    }
    contents = [_line(name, objects[name]) for name, is_group in found if not is_group]
    groups = [{"Prefix": name} for name, is_group in found if is_group]
    optional = {"Contents": contents, "CommonPrefixes": groups, "Delimiter": Delimiter, "StartAfter": StartAfter}
    optional["ContinuationToken"] = ContinuationToken
    if more and found:
        optional["NextContinuationToken"] = _TOKEN + found[-1][0]
    return answer | {name: value for name, value in optional.items() if value}


def _some(
    objects: Mapping[str, StoredObject], prefix: str, delimiter: str, after: str, limit: int
) -> tuple[list[tuple[str, bool]], bool]:
    """Up to `limit` names after `after`, each with whether it stands for a group; and whether there are more."""
    found: list[tuple[str, bool]] = []
    for key in sorted(objects, key=str.encode):
        if not key.startswith(prefix):
            continue
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        line = (key, False) if end < 0 else (key[: end + len(delimiter)], True)
        if line[0].encode() <= after.encode() or (found and found[-1] == line):
            continue
        if len(found) == limit:
            return found, limit > 0
        found.append(line)
    return found, False


def _line(key: str, found: StoredObject) -> dict[str, Any]:
    return {
        "Key": key,
        "LastModified": found.modified,
        "ETag": found.etag,
        "Size": len(found.body),
        "StorageClass": "STANDARD",
    }
