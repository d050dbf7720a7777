# SPDX-License-Identifier: GPL-3.0-or-later
"""Contracts: what holds of every implementation of an interface, as classes of tests to inherit from.

Each module has a class whose tests ask for one fixture, which the test class of an implementation provides::

    class TestMyCache(BlockCacheContract):
        @pytest.fixture
        def cache(self) -> BlockCache:
            return MyCache()

The modules need pytest, and rewrite no assertions by themselves: with ``pytest.register_assert_rewrite`` in a conftest,
or the plugin of cas3fs loaded, failures tell more.
"""
