# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of object stores: `ObjectStoreContract`; the test class of a store adds a fixture `store`.

Tests that hold only for some stores are in further classes, which the test class inherits from as they apply.
"""

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from cas3fs.errors import (
    InvalidKey,
    ObjectExists,
    ObjectMissing,
    ObjectTooLong,
    ObjectTooShort,
    StoreError,
    StoreRefused,
)
from cas3fs.objectstores import Body, ObjectStore, probe_create_if_absent

CONTENT = bytes(range(256)) * 40
BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    ".hidden",
    "a/.b",
    "a\0b",
    "a\nb",
    "ä",
    "a b",
]
BAD_KEYS += ["a\\b", "a" * 201, "/".join(["a" * 100] * 6)]


class ObjectStoreContract:
    """The tests; the fixture `store` of the subclass returns an empty store, preferably with short pages."""

    # Putting and getting

    @pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["empty", "one byte", "more"])
    def test_what_was_put_is_given_back(self, store: ObjectStore, content: bytes) -> None:
        store.put_if_absent("packs/00000007/3f9c", content)
        assert store.get("packs/00000007/3f9c") == content

    @pytest.mark.parametrize(
        "body",
        [CONTENT, bytearray(CONTENT), memoryview(CONTENT), memoryview(b"--" + CONTENT + b"--")[2:-2]],
        ids=["bytes", "bytearray", "memoryview", "part of a memoryview"],
    )
    def test_a_body_may_be_any_buffer(self, store: ObjectStore, body: Body) -> None:
        store.put_if_absent("a", body)
        assert store.get("a") == CONTENT

    def test_a_file_is_put_from_its_position_to_its_end(self, store: ObjectStore) -> None:
        file = io.BytesIO(CONTENT)
        file.seek(100)
        store.put_if_absent("a", file)
        assert store.get("a") == CONTENT[100:]

    def test_a_large_object_can_be_put_and_read(self, store: ObjectStore) -> None:
        content = CONTENT * 820
        store.put_if_absent("a", io.BytesIO(content))
        assert store.get("a") == content
        assert store.get_range("a", 5_000_000, 1000) == content[5_000_000:5_001_000]

    def test_a_key_that_breaks_the_rules_is_refused_by_every_method(self, store: ObjectStore) -> None:
        methods: list[Callable[[str], object]] = [
            lambda key: store.put_if_absent(key, b""),
            store.get,
            lambda key: store.get_range(key, 0, 1),
            store.head,
            lambda key: store.delete_many([key]),
        ]
        for key, method in product(BAD_KEYS, methods):
            with pytest.raises(InvalidKey):
                method(key)
        assert list(store.list()) == []

    def test_a_valid_key_is_accepted(self, store: ObjectStore) -> None:
        keys = ["0/1/2/3/4/5", "A.b_c-d=e@f", "/".join(["a" * 100] * 5), "b" * 200, "volume"]
        for key in keys:
            store.put_if_absent(key, key.encode())
        assert [store.get(key) for key in keys] == [key.encode() for key in keys]
        assert [info.key for info in store.list()] == keys

    def test_a_deleted_key_can_be_created_again(self, store: ObjectStore) -> None:
        store.put_if_absent("a/b", b"first")
        store.delete_many(["a/b"])
        store.put_if_absent("a/b", b"second")
        assert store.get("a/b") == b"second"

    def test_an_object_over_the_limit_of_its_reader_is_an_error(self, store: ObjectStore) -> None:
        store.put_if_absent("a", CONTENT)
        assert store.get_within("a", len(CONTENT)) == CONTENT
        with pytest.raises(ObjectTooLong, match="object a has more than 10239 bytes"):
            store.get_within("a", len(CONTENT) - 1)
        with pytest.raises(ObjectMissing):
            store.get_within("b", 1)

    # Ranges

    @pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 10_240), (10_239, 1), (5000, 240), (7, 0), (99_999, 0)])
    def test_a_range_gives_exactly_its_bytes(self, store: ObjectStore, start: int, length: int) -> None:
        store.put_if_absent("a", CONTENT)
        assert store.get_range("a", start, length) == CONTENT[start : start + length]

    @pytest.mark.parametrize(("start", "length"), [(0, 10_241), (10_239, 2), (10_240, 1), (99_999, 5)])
    def test_a_range_beyond_the_end_is_an_error(self, store: ObjectStore, start: int, length: int) -> None:
        store.put_if_absent("a", CONTENT)
        with pytest.raises(ObjectTooShort, match="a"):
            store.get_range("a", start, length)

    @pytest.mark.parametrize("lengths", [(1,), (10_240,), (1, 4_000, 0, 6_000), (0, 100), (), (0,)])
    def test_pieces_make_up_a_range(self, store: ObjectStore, lengths: tuple[int, ...]) -> None:
        store.put_if_absent("a", CONTENT)
        for start in (0, 239):
            if start + sum(lengths) <= len(CONTENT):
                pieces: list[bytes] = []
                store.get_pieces("a", start, lengths, pieces.append)
                assert [len(piece) for piece in pieces] == list(lengths)
                assert b"".join(pieces) == CONTENT[start : start + sum(lengths)]

    def test_large_pieces_are_complete(self, store: ObjectStore) -> None:
        content, lengths = CONTENT * 410, (1, 3 << 20, 1 << 20, 500)
        store.put_if_absent("a", io.BytesIO(content))
        pieces: list[bytes] = []
        store.get_pieces("a", 7, lengths, pieces.append)
        assert [len(piece) for piece in pieces] == list(lengths)
        assert b"".join(pieces) == content[7 : 7 + sum(lengths)]

    def test_an_impossible_range_of_pieces_is_an_error_and_delivers_none(self, store: ObjectStore) -> None:
        store.put_if_absent("a", CONTENT)
        pieces: list[bytes] = []
        with pytest.raises(ObjectTooShort):
            store.get_pieces("a", 10_000, (200, 41), pieces.append)
        with pytest.raises(ObjectMissing):
            store.get_pieces("b", 0, (1,), pieces.append)
        with pytest.raises(ValueError, match="no such range"):
            store.get_pieces("a", 0, (5, -1), pieces.append)
        with pytest.raises(InvalidKey):
            store.get_pieces("../a", 0, (1,), pieces.append)
        assert pieces == []

    @pytest.mark.parametrize(
        "lengths", [(1,), (10_240,), (10_000, 241), (5_000, 99_999), (1, 4_000, 0, 6_000), (300_000,)]
    )
    def test_the_last_piece_may_end_with_the_object(self, store: ObjectStore, lengths: tuple[int, ...]) -> None:
        store.put_if_absent("a", CONTENT)
        for start in (0, 239):
            pieces: list[bytes] = []
            store.get_pieces("a", start, lengths, pieces.append, may_end=True)
            assert [len(piece) for piece in pieces[:-1]] == list(lengths[:-1])
            assert b"".join(pieces) == CONTENT[start : start + sum(lengths)]

    @pytest.mark.parametrize(
        ("start", "lengths"), [(0, (10_240, 1)), (10_240, (5,)), (99_999, (5,)), (0, (9_999, 999, 1))]
    )
    def test_the_object_may_not_end_before_the_last_piece(
        self, store: ObjectStore, start: int, lengths: tuple[int, ...]
    ) -> None:
        store.put_if_absent("a", CONTENT)
        pieces: list[bytes] = []
        with pytest.raises(ObjectTooShort, match="a"):
            store.get_pieces("a", start, lengths, pieces.append, may_end=True)
        with pytest.raises(ObjectMissing):
            store.get_pieces("b", start, lengths, pieces.append, may_end=True)
        assert pieces == []

    def test_an_empty_object_has_no_ranges(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"")
        with pytest.raises(ObjectTooShort):
            store.get_range("a", 0, 1)

    @pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1)])
    def test_a_negative_range_is_a_value_error(self, store: ObjectStore, start: int, length: int) -> None:
        with pytest.raises(ValueError, match="no such range"):
            store.get_range("a", start, length)

    # Missing objects

    def test_a_missing_object_is_named(self, store: ObjectStore) -> None:
        store.put_if_absent("a/b", b"")
        for key in ("none", "a/none", "a", "a/b/none"):
            for read in (
                store.get,
                lambda key: store.get_range(key, 0, 1),
                store.head,
            ):
                with pytest.raises(ObjectMissing, match=key) as caught:
                    read(key)
                assert "\n" not in str(caught.value)

    # Heads and metadata

    def test_a_head_shows_size_and_time(self, store: ObjectStore) -> None:
        store.put_if_absent("a", CONTENT)
        info = store.head("a")
        assert (info.key, info.size) == ("a", len(CONTENT))
        assert abs(datetime.now(UTC) - info.modified) < timedelta(minutes=5)

    @pytest.mark.parametrize(
        "metadata",
        [{"Kind": "x"}, {"": "x"}, {"a b": "x"}, {"a": "ä"}, {"a": "x\ny"}, {"a": " x"}, {"a": "x" * 2048}],
        ids=["capitals", "no name", "space", "not ASCII", "two lines", "space around", "too long"],
    )
    def test_metadata_that_do_not_fit_in_headers_are_refused(
        self, store: ObjectStore, metadata: dict[str, str]
    ) -> None:
        with pytest.raises(StoreRefused, match="metadata"):
            store.put_if_absent("a", b"", metadata)
        assert list(store.list()) == []

    # Listing

    def test_a_listing_is_complete_and_ascending(self, store: ObjectStore) -> None:
        keys = ["a-b/1", "a.b", "a/b", "a/b-c", "a/c/d", "a0", "b", "z/1/2/3", "z/1/3"]
        for key in reversed(keys):
            store.put_if_absent(key, key.encode())
        listed = list(store.list())
        assert [info.key for info in listed] == sorted(keys)
        assert [info.size for info in listed] == [len(key) for key in sorted(keys)]
        assert all(abs(datetime.now(UTC) - info.modified) < timedelta(minutes=5) for info in listed)

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("epochs/", ["epochs/00000001", "epochs/00000002", "epochs/00000012"]),
            ("epochs/0000000", ["epochs/00000001", "epochs/00000002"]),
            ("epochs/00000001", ["epochs/00000001"]),
            ("epochs", ["epochs/00000001", "epochs/00000002", "epochs/00000012", "epochs-old"]),
            ("none", []),
            ("none/at/all", []),
            ("epochs/00000001/", []),
        ],
    )
    def test_a_prefix_may_end_anywhere(self, store: ObjectStore, prefix: str, expected: list[str]) -> None:
        for key in ("epochs/00000001", "epochs/00000002", "epochs/00000012", "epochs-old", "volume", "packs/a/b"):
            store.put_if_absent(key, b"")
        assert [info.key for info in store.list(prefix)] == sorted(expected)

    def test_a_listing_can_start_after_any_key(self, store: ObjectStore) -> None:
        keys = ["a/1", "a/2", "a/3/x", "b/1"]
        for key in keys:
            store.put_if_absent(key, b"")
        for start in ("", "0", "a", "a/1", "a/1x", "a/2", "a/3", "a/3/x", "a/3/y", "b", "b/1", "c"):
            assert [info.key for info in store.list(start_after=start)] == [key for key in keys if key > start]
            assert [info.key for info in store.list("a/", start)] == [
                key for key in keys if key > start and key.startswith("a/")
            ]

    def test_a_listing_spans_pages(self, store: ObjectStore) -> None:
        keys = [f"packs/{number // 4}/{number:02}" for number in range(13)]
        for key in keys:
            store.put_if_absent(key, b"")
        assert [info.key for info in store.list("packs/")] == keys
        store.delete_many(keys)
        assert list(store.list()) == []

    @pytest.mark.parametrize("prefix", ["/", "a//", "../", ".a", "a/../b"])
    def test_a_prefix_that_no_key_has_is_refused(self, store: ObjectStore, prefix: str) -> None:
        with pytest.raises(InvalidKey):
            list(store.list(prefix))

    # Deleting

    def test_deleting_ignores_missing_keys(self, store: ObjectStore) -> None:
        for key in ("a", "b/1", "b/2"):
            store.put_if_absent(key, b"")
        store.delete_many(iter(["a", "b/1", "none", "none/at/all"]))
        assert [info.key for info in store.list()] == ["b/2"]
        store.delete_many([])

    # Threads, closing

    def test_many_threads_share_a_store(self, store: ObjectStore) -> None:
        def use(number: int) -> bytes:
            key = f"t/{number % 4}/{number}"
            store.put_if_absent(key, b"%d" % number)
            return store.get_range(key, 0, 1) + store.get(key)

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(use, range(40)))
        assert results == [b"%s%d" % (str(number)[0].encode(), number) for number in range(40)]

    def test_closing_twice_is_harmless(self, store: ObjectStore) -> None:
        store.close()
        store.close()

    def test_every_error_is_a_cas3fs_error(self, store: ObjectStore) -> None:
        with pytest.raises(StoreError) as caught:
            store.get("none")
        assert store.url in str(caught.value)


class CreatesOnlyOnce:
    """For stores that honour create-if-absent."""

    def test_creating_a_second_time_fails_and_changes_nothing(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"first")
        with pytest.raises(ObjectExists):
            store.put_if_absent("a", b"second")
        assert store.get("a") == b"first"

    def test_of_many_concurrent_creations_of_a_key_one_succeeds(self, store: ObjectStore) -> None:
        start = threading.Barrier(8)

        def create(number: int) -> int | None:
            start.wait()
            try:
                store.put_if_absent("epochs/00000001", b"%d" % number)
            except ObjectExists:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            winners = [winner for winner in pool.map(create, range(8)) if winner is not None]
        assert len(winners) == 1
        assert store.get("epochs/00000001") == b"%d" % winners[0]

    def test_the_probe_detects_honoured_conditions(self, store: ObjectStore) -> None:
        assert probe_create_if_absent(store)
        assert list(store.list()) == []


class IgnoresConditions:
    """For servers that overwrite."""

    def test_the_probe_detects_ignored_conditions(self, store: ObjectStore) -> None:
        assert not probe_create_if_absent(store)
        assert list(store.list()) == []


class RefusesNesting:
    """For stores that refuse a key below that of another object."""

    @pytest.mark.parametrize(("first", "second"), [("a/b", "a/b/c"), ("a/b/c/d", "a/b")])
    def test_an_object_cannot_be_below_another(self, store: ObjectStore, first: str, second: str) -> None:
        store.put_if_absent(first, b"")
        with pytest.raises(InvalidKey):
            store.put_if_absent(second, b"")
        assert [info.key for info in store.list()] == [first]


class KeepsMetadata:
    """For stores that always keep metadata; a directory needs extended attributes for that."""

    def test_a_head_shows_metadata(self, store: ObjectStore) -> None:
        metadata = {"kind": "pack", "format-version": "1", "label": 'some words: "a=b; c", %41', "empty": ""}
        store.put_if_absent("a", CONTENT, metadata)
        found = dict(store.head("a").metadata)
        assert found.pop("empty", "") == metadata.pop("empty")  # some servers drop what is empty
        assert found == metadata
        assert store.get("a") == CONTENT
