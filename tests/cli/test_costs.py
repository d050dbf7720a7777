# SPDX-License-Identifier: GPL-3.0-or-later
"""What `stats` tells of requests and their price."""

import json
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from cas3fs.cli.costs import cost_report, cost_rows, dollars, planned_usd
from cas3fs.cli.program import program
from cas3fs.control.messages.mount import StatsReply
from cas3fs.prices import PriceTable


def test_requests_bytes_and_dollars_follow_from_the_metrics_of_the_mount() -> None:
    process = {"store.put.count": 2000, "store.put.bytes": 5_000_000, "store.get.count": 1000, "store.get.bytes": 10**9}
    spent = cost_report(process, 2 * 10**9, PriceTable())
    assert spent["requests"] == {"put": 2000, "get": 1000, "list": 0, "head": 0, "delete": 0}
    assert (spent["up_bytes"], spent["down_bytes"]) == (5_000_000, 10**9)
    assert (spent["requests_usd"], spent["egress_usd"], spent["storage_usd_per_month"]) == (0.0104, 0.09, 0.046)
    lines = dict(cost_rows(spent))
    assert lines["requests"] == "2,000 put, 1,000 get"
    assert lines["price of requests"] == "$0.01; $0.09 more if what was received left the region"
    assert lines["price of storage"] == "$0.05 a month"


def test_a_plan_is_priced_by_the_table_that_was_given() -> None:
    requests = {"puts": 1000, "gets": 2000, "lists": 0, "deletes": 50}
    assert planned_usd(requests, PriceTable()) == 0.0058
    assert planned_usd(requests, PriceTable.parse("put=1,get=0.5")) == 2.0


def test_small_amounts_are_not_rounded_to_nothing() -> None:
    assert [dollars(usd) for usd in (0, 0.00003, 1e-9, 1234.5)] == [
        "$0.00",
        "$0.00003",
        "less than $0.000001",
        "$1,234.50",
    ]


def test_prices_can_be_set_by_option_and_environment(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    url = (tmp_path / "store").as_uri()
    places = ["--state-dir", str(tmp_path / "state"), "--cache-dir", str(tmp_path / "cache")]
    runner = CliRunner()
    assert runner.invoke(program, ["mkfs", "--no-encrypt", url]).exit_code == 0
    by_option = runner.invoke(program, ["stats", url, *places, "--json", "--price", "storage=1"])
    assert json.loads(by_option.stdout)["spending"]["storage_usd_per_month"] == 0
    refused = runner.invoke(program, ["stats", url, *places], env={"CAS3FS_PRICE": "copy=3"})
    assert refused.exit_code == 2
    assert "'copy=3' is not a price" in refused.stderr


@pytest.mark.promise("manifests-are-read-once")
def test_the_price_of_storage_counts_what_snapshots_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {field.name: 0 for field in attrs.fields(StatsReply) if field.default is attrs.NOTHING}
    report = StatsReply(**numbers | {"pack_bytes": 10**9, "snapshot_bytes": 10**9})
    monkeypatch.setattr("cas3fs.commands.requests.carry_out", lambda *_: report)
    told = CliRunner().invoke(program, ["stats", "file:///x", "--json", "--price", "storage=1"])
    assert json.loads(told.stdout)["spending"]["storage_usd_per_month"] == 2
