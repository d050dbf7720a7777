# SPDX-License-Identifier: GPL-3.0-or-later
"""How to reach an S3 server: known without boto3, which takes a while to import."""

from typing import NamedTuple


class S3Settings(NamedTuple):
    """What is None is found as boto3 finds it: environment, profile, instance."""

    endpoint_url: str | None = None
    access_key: str | None = None
    secret_key: str | None = None
    region: str | None = None
    connections: int = 32
    """How many are kept open: as many as there are requests at once."""
    timeout_s: float | None = None
    """No step of a request may take longer, where that is less than the usual limits."""
