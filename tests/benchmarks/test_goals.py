# SPDX-License-Identifier: GPL-3.0-or-later
"""How figures are compared with goals."""

import pytest

from benchmarks.goals import AtLeast, AtMost, RatioToPeer, ReferenceFigures, ShareOfNull, evaluate, times_better

NOTHING: dict[str, float | None] = {"plain": None, "nullfs": None, "s3ql": None}


def test_a_measured_peer_is_preferred() -> None:
    evaluation = evaluate(
        RatioToPeer(3), 30.0, {**NOTHING, "plain": 1000.0, "s3ql": 9.0}, ReferenceFigures(1000, 1000), False
    )
    assert (evaluation.ratio, evaluation.estimated, evaluation.met) == (pytest.approx(30 / 9), False, True)


def test_an_unmeasured_peer_is_estimated_by_the_plain_directory() -> None:
    evaluation = evaluate(
        RatioToPeer(3), 100.0, {**NOTHING, "plain": 500.0}, ReferenceFigures(ext4=1000, s3ql=100), False
    )
    assert (evaluation.ratio, evaluation.estimated, evaluation.met) == (pytest.approx(2.0), True, False)


def test_without_a_plain_directory_the_reference_is_compared() -> None:
    assert evaluate(RatioToPeer(3), 400.0, NOTHING, ReferenceFigures(ext4=None, s3ql=100), False).ratio == 4.0


def test_without_a_reference_there_is_no_evaluation() -> None:
    assert evaluate(RatioToPeer(3), 400.0, NOTHING, ReferenceFigures(), False).met is None
    assert evaluate(ShareOfNull(0.3), 400.0, NOTHING, ReferenceFigures(), False).met is None


def test_the_ratio_is_inverted_if_less_is_better() -> None:
    assert times_better(2.0, 6.0, less_is_better=True) == 3.0
    assert (
        evaluate(RatioToPeer(3), 2.0, {**NOTHING, "plain": 1.0}, ReferenceFigures(ext4=0.5, s3ql=3.0), True).ratio
        == 3.0
    )
    assert evaluate(ShareOfNull(0.4), 2.0, {**NOTHING, "nullfs": 1.0}, ReferenceFigures(), True).met


@pytest.mark.parametrize(("figure", "met"), [(300, True), (300.1, False)])
def test_a_limit_is_inclusive(figure: float, met: bool) -> None:
    assert evaluate(AtMost(300), figure, NOTHING, ReferenceFigures(), True).met is met
    assert evaluate(AtLeast(-300), -figure, NOTHING, ReferenceFigures(), False).met is met
