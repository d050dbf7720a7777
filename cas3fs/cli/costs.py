# SPDX-License-Identifier: GPL-3.0-or-later
"""What a volume costs: the option that sets prices, and the lines that show costs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import click

from cas3fs.errors import UsageError
from cas3fs.prices import PriceTable
from cas3fs.units import format_size

_Command = TypeVar("_Command", bound=Callable[..., Any])
_CENT_USD: Final = 0.01
_UP: Final = ("put",)
_DOWN: Final = ("get",)


class Prices(click.ParamType):  # type: ignore[type-arg]
    """A table of prices, such as put=0.005,get=0.0004."""

    name = "prices"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> PriceTable:
        if isinstance(value, PriceTable):
            return value
        try:
            return PriceTable.parse(str(value))
        except UsageError as error:
            return self.fail(str(error), param, ctx)


def price_option(command: _Command) -> _Command:
    """``--price``: what the store's service asks for."""
    return click.option(
        "--price",
        "prices",
        type=Prices(),
        default=PriceTable(),
        envvar="CAS3FS_PRICE",
        metavar="NAME=DOLLARS,...",
        help="Prices of the service (CAS3FS_PRICE): put, get, list, head, delete for 1,000 requests, storage for a GB "
        "and month, egress for a GB.  [default: Amazon's in us-east-1]",
    )(command)


def cost_report(process: Mapping[str, float], stored_bytes: int, prices: PriceTable) -> dict[str, Any]:
    """What a mount has asked for since it began, and what the volume costs, in dollars.

    `process` has the metrics of the mount, or nothing. Egress is separate: only what leaves the service's region is
    charged.
    """
    requests = {kind: int(process.get(f"store.{kind}.count", 0)) for kind in ("put", "get", "list", "head", "delete")}
    up, down = (sum(int(process.get(f"store.{kind}.bytes", 0)) for kind in kinds) for kinds in (_UP, _DOWN))
    return {
        "requests": requests,
        "up_bytes": up,
        "down_bytes": down,
        "requests_usd": round(prices.of_requests(requests), 6),
        "egress_usd": round(prices.of_egress(down), 6),
        "storage_usd_per_month": round(prices.of_month(stored_bytes), 6),
    }


def planned_usd(requests: Mapping[str, int], prices: PriceTable) -> float:
    """Dollars for the requests of a plan of gc, which counts ``puts``, ``gets``, ``lists`` and ``deletes``."""
    return round(prices.of_requests({kind.removesuffix("s"): count for kind, count in requests.items()}), 6)


def cost_rows(spent: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The lines of `spending`, a title and words each."""
    counts = ", ".join(f"{count:,} {kind}" for kind, count in spent["requests"].items() if count)
    if counts:
        yield "requests", counts
        yield "sent and received", f"{format_size(spent['up_bytes'])}, {format_size(spent['down_bytes'])}"
        egress = dollars(spent["egress_usd"])
        yield (
            "price of requests",
            f"{dollars(spent['requests_usd'])}; {egress} more if what was received left the region",
        )
    yield "price of storage", f"{dollars(spent['storage_usd_per_month'])} a month"


def dollars(usd: float) -> str:
    """An amount, in whole cents where there are any."""
    if usd >= _CENT_USD or not usd:
        return f"${usd:,.2f}"
    return f"${usd:.6f}".rstrip("0") if usd >= 1e-6 else "less than $0.000001"
