# SPDX-License-Identifier: GPL-3.0-or-later
"""The prices of an S3 service for requests, for storage and for data that leaves its region.

A table is written as ``put=0.005,get=0.0004,egress=0.09``: names of the fields of `PriceTable`, without their units.
Fields that are left out have Amazon's price in us-east-1. There deletions and uploads are free, and so are downloads
within the region.
"""

from collections.abc import Mapping
from typing import Final, Self

import attrs

from cas3fs.errors import UsageError

GB: Final = 1_000_000_000
_UNITS: Final[Mapping[str, str]] = {"storage": "storage_per_gb_month", "egress": "egress_per_gb"}


@attrs.frozen
class PriceTable:
    """Dollars for 1,000 requests of each kind, for storing a gigabyte (10^9 bytes) a month, and for downloading one."""

    put: float = 0.005
    get: float = 0.0004
    list: float = 0.005
    head: float = 0.0004
    delete: float = 0.0
    storage_per_gb_month: float = 0.023
    egress_per_gb: float = 0.09

    @classmethod
    def parse(cls, text: str) -> Self:
        """The table from a text.

        Raises:
            UsageError: an unknown name, or an invalid price.
        """
        prices: dict[str, float] = {}
        for part in filter(None, (word.strip() for word in text.split(","))):
            name, _, price = part.partition("=")
            field = _UNITS.get(name.strip(), name.strip())
            if field not in attrs.fields_dict(cls):
                known = ", ".join(["put", "get", "list", "head", "delete", *_UNITS])
                raise UsageError(f"{part!r} is not a price; write NAME=DOLLARS, where NAME is one of {known}")
            prices[field] = _dollars(part, price)
        return cls(**prices)

    def of_requests(self, counts: Mapping[str, float]) -> float:
        """Dollars for requests by kind; kinds without a price (such as ``delete-many``) are free."""
        kinds = ("put", "get", "list", "head", "delete")
        return sum(counts.get(kind, 0) * float(getattr(self, kind)) for kind in kinds) / 1000

    def of_egress(self, size_bytes: float) -> float:
        """Dollars for bytes that leave the region of the service."""
        return size_bytes / GB * self.egress_per_gb

    def of_month(self, size_bytes: float) -> float:
        """Dollars for storing bytes for a month."""
        return size_bytes / GB * self.storage_per_gb_month


def _dollars(part: str, price: str) -> float:
    try:
        dollars = float(price)
    except ValueError:
        dollars = -1.0
    if not 0 <= dollars < float("inf"):
        raise UsageError(f"{part!r} is not a price; write dollars as a number, such as 0.005")
    return dollars
