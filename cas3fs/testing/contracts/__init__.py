# SPDX-License-Identifier: GPL-3.0-or-later
"""Contracts: tests for every implementation of an interface, as classes to inherit from.

Each module has a class whose tests use a fixture that the test class of an implementation provides::

    class TestMyCache(BlockCacheContract):
        @pytest.fixture
        def cache(self) -> BlockCache:
            return MyCache()

The modules need pytest. Failures show more with ``pytest.register_assert_rewrite`` in a conftest, or where the plugin
of cas3fs is loaded.
"""
