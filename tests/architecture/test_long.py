# SPDX-License-Identifier: GPL-3.0-or-later
"""A long session (`./dev test --long`) tries more examples and gives tests more time than a usual one."""

import pytest
from hypothesis import settings


def test_a_long_session_tries_ten_times_as_many_examples(long: bool) -> None:
    assert settings.default.max_examples == (1000 if long else 100)
    assert settings.default.deadline is None


@pytest.mark.lasts(200, long_s=3000)
def test_a_test_gets_the_time_that_its_marker_asks_for(request: pytest.FixtureRequest, long: bool) -> None:
    assert request.node.get_closest_marker("timeout").args == ((3000,) if long else (200,))


def test_a_test_without_the_marker_gets_the_default_time(request: pytest.FixtureRequest, long: bool) -> None:
    marker = request.node.get_closest_marker("timeout")
    assert marker.args == (1200,) if long else marker is None
