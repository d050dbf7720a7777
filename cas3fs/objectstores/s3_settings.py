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
    first_answer_s: float | None = None
    """The same, as long as the server has answered nothing at all."""

    def until_answered(self) -> "S3Settings":
        """The settings for that time."""
        limits = [one for one in (self.timeout_s, self.first_answer_s) if one is not None]
        return self._replace(timeout_s=min(limits, default=None))
