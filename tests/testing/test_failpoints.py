# SPDX-License-Identifier: GPL-3.0-or-later
"""The functions of failpoints exist."""

import importlib
from functools import reduce

import pytest

from cas3fs.testing.failpoints import COPY_FAILPOINTS, FAILPOINTS, KEY_FAILPOINTS

POINTS = {**FAILPOINTS, **KEY_FAILPOINTS, **COPY_FAILPOINTS}


@pytest.mark.parametrize("name", POINTS)
def test_the_target_of_a_failpoint_exists(name: str) -> None:
    module, _, path = POINTS[name].target.partition(":")
    assert callable(reduce(getattr, path.split("."), importlib.import_module(module)))
