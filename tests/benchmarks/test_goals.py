# SPDX-License-Identifier: GPL-3.0-or-later
"""How a figure is compared with what is wanted of it."""

import pytest

from benchmarks.goals import AtLeast, AtMost, Known, OfNull, OfPeer, judge, times_better

NOTHING: dict[str, float | None] = {"plain": None, "nullfs": None, "s3ql": None}


def test_a_peer_that_was_measured_in_the_same_run_is_what_counts() -> None:
    verdict = judge(OfPeer(3), 30.0, {**NOTHING, "plain": 1000.0, "s3ql": 9.0}, Known(1000, 1000), False)
    assert (verdict.ratio, verdict.estimated, verdict.met) == (pytest.approx(30 / 9), False, True)


def test_a_peer_that_was_not_measured_is_reached_by_way_of_the_plain_directory() -> None:
    verdict = judge(OfPeer(3), 100.0, {**NOTHING, "plain": 500.0}, Known(ext4=1000, s3ql=100), False)
    assert (verdict.ratio, verdict.estimated, verdict.met) == (pytest.approx(2.0), True, False)


def test_without_a_plain_directory_the_known_figure_itself_is_compared() -> None:
    assert judge(OfPeer(3), 400.0, NOTHING, Known(ext4=None, s3ql=100), False).ratio == 4.0


def test_nothing_is_claimed_where_nothing_is_known() -> None:
    assert judge(OfPeer(3), 400.0, NOTHING, Known(), False).met is None
    assert judge(OfNull(0.3), 400.0, NOTHING, Known(), False).met is None


def test_where_less_is_better_the_ratio_turns_round() -> None:
    assert times_better(2.0, 6.0, less_is_better=True) == 3.0
    assert judge(OfPeer(3), 2.0, {**NOTHING, "plain": 1.0}, Known(ext4=0.5, s3ql=3.0), True).ratio == 3.0
    assert judge(OfNull(0.4), 2.0, {**NOTHING, "nullfs": 1.0}, Known(), True).met


@pytest.mark.parametrize(("figure", "met"), [(300, True), (300.1, False)])
def test_a_bound_includes_itself(figure: float, met: bool) -> None:
    assert judge(AtMost(300), figure, NOTHING, Known(), True).met is met
    assert judge(AtLeast(-300), -figure, NOTHING, Known(), False).met is met
