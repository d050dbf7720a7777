# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores around a store, one concern each: retries, limits, metrics.

`open_store` stacks them: retries are outermost, so that a request that waits for its next attempt does not count among
the concurrent ones, and so that every attempt is limited and measured. A wrapper does not know what kind of store it
wraps.
"""

from cas3fs.objectstores.wrappers.measure import MeasuredStore
from cas3fs.objectstores.wrappers.request_limits import BandwidthLimitedStore, ConcurrencyLimitedStore, TokenBucket
from cas3fs.objectstores.wrappers.retry import RetryingStore, RetryPolicy
from cas3fs.objectstores.wrappers.wrapper import StoreWrapper

__all__ = [
    "BandwidthLimitedStore",
    "ConcurrencyLimitedStore",
    "MeasuredStore",
    "RetryPolicy",
    "RetryingStore",
    "StoreWrapper",
    "TokenBucket",
]
