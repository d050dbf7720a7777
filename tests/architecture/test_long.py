# SPDX-License-Identifier: GPL-3.0-or-later
"""The two forms of a test session: the usual one, and the long one of `./dev test --long`."""

import pytest
from hypothesis import settings


def test_a_long_session_tries_ten_times_as_many_examples(long: bool) -> None:
    assert settings.default.max_examples == (1000 if long else 100)
    assert settings.default.deadline is None


@pytest.mark.lasts(200, long_s=3000)
def test_a_test_that_says_how_long_it_lasts_gets_that_time(request: pytest.FixtureRequest, long: bool) -> None:
    assert request.node.get_closest_marker("timeout").args == ((3000,) if long else (200,))


def test_other_tests_get_the_time_of_all(request: pytest.FixtureRequest, long: bool) -> None:
    marker = request.node.get_closest_marker("timeout")
    assert marker.args == (1200,) if long else marker is None
