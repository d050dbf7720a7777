# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of pymemcache's client: `MemcachedContract`, for the fake and for a real server.

A test class adds a fixture `client`, whose server is empty, takes items up to 1 MiB, and has `default_noreply` off.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest


class MemcachedContract:
    """The tests of the contract."""

    @pytest.mark.parametrize("value", [b"", b"x", b"a\r\nEND\r\n", bytes(range(256)) * 2000])
    def test_what_was_set_is_given_back(self, client: Any, value: bytes) -> None:
        assert client.set(b"a", value)
        assert client.get(b"a") == value

    def test_many_are_set_and_read_at_once(self, client: Any) -> None:
        values = {f"key-{number}": b"%d" % number * 1000 for number in range(100)}
        assert client.set_many(values) == []
        assert client.get_many([*values, "none"]) == values
        assert client.get_many([]) == {}

    def test_a_missing_key_is_none_or_the_default(self, client: Any) -> None:
        assert client.get(b"none") is None
        assert client.get(b"none", 5) == 5
        assert client.gets(b"none") == (None, None)
        assert client.delete(b"none") is False
        assert client.incr(b"none", 1) is None
        assert client.touch(b"none") is False

    def test_add_and_replace_are_conditional(self, client: Any) -> None:
        assert not client.replace(b"a", b"0")
        assert client.add(b"a", b"1")
        assert not client.add(b"a", b"2")
        assert client.replace(b"a", b"3")
        assert client.get(b"a") == b"3"

    def test_appending_and_prepending_need_an_item(self, client: Any) -> None:
        assert not client.append(b"a", b"x")
        client.set(b"a", b"b")
        assert client.append(b"a", b"c")
        assert client.prepend(b"a", b"a")
        assert client.get(b"a") == b"abc"

    def test_compare_and_swap_detects_another_change(self, client: Any) -> None:
        client.set(b"a", b"1")
        value, token = client.gets(b"a")
        assert value == b"1"
        assert client.cas(b"a", b"2", token) is True
        assert client.cas(b"a", b"3", token) is False
        assert client.cas(b"none", b"3", token) is None
        assert client.gets_many([b"a"])[b"a"][0] == b"2"

    def test_numbers_are_incremented_and_decremented_to_zero(self, client: Any) -> None:
        client.set(b"n", b"5")
        assert client.incr(b"n", 3) == 8
        assert client.decr(b"n", 2) == 6
        assert client.decr(b"n", 100) == 0

    def test_deleted_and_flushed_items_are_missing(self, client: Any) -> None:
        client.set_many({b"a": b"1", b"b": b"2", b"c": b"3"})
        assert client.delete(b"a")
        assert client.delete_many([b"b"])
        assert client.get_many([b"a", b"b", b"c"]) == {b"c": b"3"}
        assert client.flush_all()
        assert client.get(b"c") is None

    def test_an_item_that_is_too_large_is_refused(self, client: Any) -> None:
        from pymemcache.exceptions import MemcacheServerError

        with pytest.raises(MemcacheServerError, match="too large"):
            client.set(b"a", bytes(2 << 20))
        assert client.get(b"a") is None

    def test_an_invalid_key_is_refused_before_it_is_sent(self, client: Any) -> None:
        from pymemcache.exceptions import MemcacheIllegalInputError

        for key in ("a b", "x" * 251, "a\nb"):
            with pytest.raises(MemcacheIllegalInputError):
                client.get(key)

    def test_the_server_shows_its_version_and_statistics(self, client: Any) -> None:
        client.set(b"a", b"1")
        assert client.version().startswith(b"1.")
        figures = client.stats()
        assert int(figures[b"curr_items"]) == 1
        assert int(figures[b"limit_maxbytes"]) > 0

    def test_touching_keeps_an_item_and_a_past_expiry_removes_it(self, client: Any) -> None:
        client.set(b"a", b"1")
        assert client.touch(b"a", 100)
        assert client.get(b"a") == b"1"
        assert client.touch(b"a", -1)
        assert client.get(b"a") is None

    def test_meta_commands_show_whether_an_item_exists(self, client: Any) -> None:
        client.set(b"a", b"1")
        assert client.raw_command(b"mg a k") == b"HD ka"
        assert client.raw_command(b"mg b k").startswith(b"EN")
        assert client.raw_command(b"mn") == b"MN"

    def test_the_least_recently_used_item_is_evicted_first(self, client: Any) -> None:
        limit_bytes = int(client.stats()[b"limit_maxbytes"])
        count = 2 * limit_bytes // 500_000
        for number in range(count):
            client.set(b"k%d" % number, bytes(500_000))
        assert client.get(b"k0") is None
        assert client.get(b"k%d" % (count - 1)) is not None
        assert int(client.stats()[b"curr_items"]) < count

    def test_clients_in_many_threads_share_the_server(self, client: Any, twin: Any) -> None:
        def use(number: int) -> object:
            other = twin()
            try:
                other.set(b"t%d" % number, b"%d" % number)
                return other.get(b"t%d" % (number - number % 2))
            finally:
                other.close()

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(use, range(20)))
        assert results[::2] == [b"%d" % number for number in range(0, 20, 2)]
        assert client.get(b"t19") == b"19"
