# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores around a store, one concern each: trying again, limits, measuring.

`open_store` stacks them: retry outermost, so that a request that waits for its next attempt holds no place among the
concurrent ones, and so that every attempt is measured. A wrapper does not know what kind of store it wraps.
"""

from cas3fs.objectstores.wrappers.limit import LimitedStore, TokenBucket
from cas3fs.objectstores.wrappers.measure import MeasuredStore
from cas3fs.objectstores.wrappers.retry import RetryingStore, RetryPolicy
from cas3fs.objectstores.wrappers.wrapper import StoreWrapper

__all__ = ["LimitedStore", "MeasuredStore", "RetryPolicy", "RetryingStore", "StoreWrapper", "TokenBucket"]
