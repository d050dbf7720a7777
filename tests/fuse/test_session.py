# SPDX-License-Identifier: GPL-3.0-or-later
"""The threads of a session."""

import os
import threading

from cas3fs.fuse.session import favoured


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_threads_that_a_favoured_one_starts_have_its_priority_and_others_keep_theirs() -> None:
    before = _niceness()
    seen: list[int] = []
    with favoured():
        within = _niceness()
        thread = threading.Thread(target=lambda: seen.append(_niceness()))
        thread.start()
        thread.join()
    assert seen == [within]
    assert within == max(before - 10, -20) if os.geteuid() == 0 else within <= before
    assert _niceness() == before
