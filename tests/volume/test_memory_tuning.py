# SPDX-License-Identifier: GPL-3.0-or-later
"""When Python looks for what nothing but itself refers to."""

import gc
import threading
import weakref

from cas3fs.volume.memory_tuning import TimedGc


class Circle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_an_old_circle_is_freed_by_the_clock() -> None:
    usual = gc.get_threshold()
    freed = threading.Event()
    with TimedGc(interval_s=0.05):
        assert gc.get_threshold()[:2] == usual[:2]
        circle = Circle()
        gc.collect()  # it is of the oldest generation now
        weakref.finalize(circle, freed.set)
        del circle
        assert freed.wait(10)
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() == 0
