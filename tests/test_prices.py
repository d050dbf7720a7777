# SPDX-License-Identifier: GPL-3.0-or-later
"""Prices: read from text, and applied to counts."""

import pytest

from cas3fs.errors import UsageError
from cas3fs.prices import PriceTable


def test_the_default_prices_are_amazons() -> None:
    prices = PriceTable()
    assert prices.of_requests({"put": 1000, "list": 1000, "get": 1000, "delete": 5000}) == pytest.approx(0.0104)
    assert prices.of_month(100_000_000_000) == pytest.approx(2.3)
    assert prices.of_egress(1_000_000_000) == pytest.approx(0.09)


def test_named_prices_are_set_and_others_keep_their_defaults() -> None:
    prices = PriceTable.parse("put=0.01, egress=0,storage=0.006")
    assert (prices.put, prices.egress_per_gb, prices.storage_per_gb_month) == (0.01, 0, 0.006)
    assert prices.get == PriceTable().get
    assert PriceTable.parse("") == PriceTable()


@pytest.mark.parametrize("text", ["copy=1", "put", "put=", "put=x", "put=-1", "put=inf", "put=nan", "=3"])
def test_an_invalid_price_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a price"):
        PriceTable.parse(text)
