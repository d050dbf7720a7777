# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that stores and reads packs."""

from pathlib import Path

import pytest

import cas3fs
from cas3fs.blocks.codec import Compression, encode
from cas3fs.blocks.packs import FinishedPack, PackBuilder
from cas3fs.blockstore.pack_store import PackStore, epoch_of_pack, pack_key, pack_name, pack_name_in
from cas3fs.errors import ObjectMissing, PackCorrupt
from cas3fs.metrics import Metrics
from tests.blockstore.conftest import TestStore, make_block


def make_pack(count: int) -> FinishedPack:
    builder = PackBuilder()
    for seed in range(count):
        block, plain = make_block(seed, 100)
        builder.add(block, encode(plain, Compression.parse("none")), len(plain))
    return builder.finish()


def test_a_pack_is_stored_under_its_epoch_and_hash(store: TestStore, metrics: Metrics) -> None:
    pack = make_pack(3)
    packs = PackStore(store, metrics)
    stored = packs.put(pack, packs.new_name(pack, 7))
    assert stored == (f"00000007/{pack.name}", len(pack.body), pack.blocks)
    assert store.get(f"packs/00000007/{pack.name}") == pack.body
    assert metrics.snapshot()["writer.stored_bytes"] == len(pack.body)


def test_a_pack_that_exists_counts_as_stored(store: TestStore) -> None:
    pack = make_pack(1)
    packs = PackStore(store)
    name = packs.new_name(pack, 1)
    assert packs.put(pack, name) == packs.put(pack, name)


def test_a_folder_takes_a_limited_number_of_packs(store: TestStore) -> None:
    packs = PackStore(store, folder_packs=2)
    stored = [packs.put(pack, packs.new_name(pack, 7)) for pack in map(make_pack, range(1, 6))]
    folders = [one.name.partition("/")[0] for one in stored]
    assert folders == ["00000007", "00000007", "00000007.0001", "00000007.0001", "00000007.0002"]
    assert {epoch_of_pack(one.name) for one in stored} == {7}
    assert {pack_name_in(info.key) for info in packs.list_objects()} == {one.name for one in stored}


def test_a_long_table_of_contents_needs_a_second_request(store: TestStore) -> None:
    packs = PackStore(store)
    for count in (1, 2000):
        pack = make_pack(count)
        stored = packs.put(pack, packs.new_name(pack, 1))
        contents = packs.get_contents(stored.name, stored.size_bytes)
        assert [each.hash for each in contents] == [line.hash for line in stored.blocks]
        assert packs.get_block(contents[-1]) == make_block(count - 1, 100)[1]


def test_contents_of_a_truncated_or_missing_pack_are_errors(store: TestStore) -> None:
    packs = PackStore(store)
    pack = make_pack(1)
    stored = packs.put(pack, packs.new_name(pack, 1))
    store.replace(pack_key(stored.name), b"short")
    with pytest.raises(PackCorrupt):
        packs.get_contents(stored.name, 5)
    store.delete_many([pack_key(stored.name)])
    with pytest.raises(ObjectMissing):
        packs.get_contents(stored.name, stored.size_bytes)
    assert not packs.exists(stored.name)


def test_names_and_keys_of_packs() -> None:
    name = pack_name(7, "ab" * 32)
    assert pack_name_in(pack_key(name)) == name
    assert epoch_of_pack(name) == 7
    for no_name in ("00000007/short", "7/" + "ab" * 32, "00000007./" + "ab" * 32, "00000007/" + "AB" * 32):
        assert epoch_of_pack(no_name) is None


def test_no_other_module_puts_packs() -> None:
    sources = {str(path): path.read_text() for path in Path(cas3fs.__file__).parent.rglob("*.py")}
    modules = [path for path, text in sources.items() if "put_if_absent(" in text and "pack_key(" in text]
    assert [Path(path).name for path in modules] == ["pack_store.py"]
    builders = [path for path, text in sources.items() if "PackBuilder()" in text]
    assert not [path for path in builders if "put_if_absent(" in sources[path]]
