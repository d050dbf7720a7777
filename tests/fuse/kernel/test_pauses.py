# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that change something are given up in a pause, and only there."""

import pytest

from cas3fs.fuse.kernel.pauses import GivenUp, Pauses


def test_a_request_is_given_up_only_while_it_pauses() -> None:
    pauses = Pauses()
    assert not pauses.give_up()
    with pauses():
        pass
    assert not pauses.give_up()
    with pytest.raises(GivenUp), pauses():
        assert pauses.give_up()


def test_what_was_given_up_goes_on_with_nothing() -> None:
    """Also where it has caught the exception, or the wait failed at the same moment."""
    pauses = Pauses()
    with pytest.raises(GivenUp), pauses():
        assert pauses.give_up()
        raise OSError
    with pytest.raises(GivenUp), pauses():
        pytest.fail("it waits again")
