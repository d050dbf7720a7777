# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that has seen newer objects of an encrypted volume notices that an older state was put back."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cas3fs.commands.gc import collect_unmounted
from cas3fs.commands.key import replace_root, rotate_keys
from cas3fs.commands.mkfs import create_volume
from cas3fs.commands.snapshot import delete_unmounted, list_unmounted, policy_unmounted
from cas3fs.config import VolumeSettings, WriterSettings
from cas3fs.control.messages.maintenance import GcRequest
from cas3fs.control.messages.snapshots import DeleteSnapshotsRequest, ListSnapshotsRequest, PolicyRequest
from cas3fs.encryption.secret import KeyFile
from cas3fs.entries.entry import SUB_SEPARATOR
from cas3fs.epochs import Epochs
from cas3fs.errors import Fenced, SecretWrong, StateConflict, StoreRolledBack, VolumeFormatError
from cas3fs.objectstores.base import ListPage
from cas3fs.objectstores.directory import DirectoryStore
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.volume.opening import open_view

from .conftest import publish, read_all, write
from .sealed_volume import KEY, SealedVolume


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[SealedVolume]:
    made = SealedVolume(tmp_path)
    yield made
    made.close()


def refused(volume: SealedVolume, match: str, host: str = "here") -> None:
    """Every way to open the volume fails with that text."""
    settings, folders = volume.settings(host), volume.folders(host)
    view = WriterSettings(cache_size_bytes=0, read_only=True)
    ways: tuple[Callable[[], object], ...] = (
        lambda: volume.open(host),
        lambda: open_view(settings, view, folders),
        lambda: list_unmounted(settings, folders, ListSnapshotsRequest(), lambda _: None),
        lambda: delete_unmounted(settings, folders, DeleteSnapshotsRequest(["1"]), lambda _: None),
        lambda: collect_unmounted(settings, folders, GcRequest(), lambda _: None),
    )
    for way in ways:
        with pytest.raises(StoreRolledBack, match=match) as caught:
            way()
        assert "--accept-rollback" in str(caught.value)
        assert "\n" not in str(caught.value)


def remove(volume: SealedVolume, *keys: str) -> None:
    for key in keys:
        assert list(volume.store.glob(f"{key}*")), key
        for path in volume.store.glob(f"{key}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.promise("an-older-store-is-refused")
def test_an_older_state_of_the_whole_store_is_refused(volume: SealedVolume) -> None:
    volume.use(a="1")
    copy = volume.keep()
    newest = volume.use(b="2")
    volume.put_back(copy)
    refused(volume, f"older .* state .*(epoch 00000002|snapshot {newest}) is gone")


def test_an_accepted_older_state_is_what_is_compared_later(volume: SealedVolume) -> None:
    volume.use(a="1")
    copy = volume.keep()
    volume.use(b="2")
    volume.put_back(copy)
    opened = volume.open(accept_rollback=True)
    assert read_all(opened) == {"a": "1"}
    write(opened, "c", "3")
    opened.finish()
    opened.close()
    volume.look()
    volume.put_back(copy)
    refused(volume, "older")


def test_the_loss_of_the_newest_snapshot_alone_is_refused(volume: SealedVolume) -> None:
    volume.use(a="1")
    newest = volume.use(b="2")
    remove(volume, f"snapshots/{newest}")
    refused(volume, f"snapshot {newest} is gone, and nothing later is there")


def test_the_loss_of_the_newest_epoch_is_refused(volume: SealedVolume) -> None:
    volume.use(a="1")
    volume.use(b="2")
    remove(volume, "epochs/00000002")
    refused(volume, "epoch 00000002 is gone")


def test_the_loss_of_the_newest_keyring_is_refused(volume: SealedVolume) -> None:
    volume.use(a="1")
    volume.rotate()
    volume.look()
    remove(volume, "keyring/00000002")
    refused(volume, "its keyring has the number 1, and had 2")


def test_the_loss_of_the_newest_policy_is_refused(volume: SealedVolume) -> None:
    request = PolicyRequest(RetentionPolicy(last=3))
    policy_unmounted(volume.settings("here"), volume.folders("here"), request, lambda _: None)
    remove(volume, "policies/")
    refused(volume, "policy 00000001 is gone")


def test_another_object_under_the_name_of_a_seen_one_is_refused(volume: SealedVolume) -> None:
    copy = volume.keep()
    first = volume.use(a="1")
    record = volume.record().read_text()
    volume.put_back(copy)
    assert volume.use("there", a="other") == first
    assert volume.record().read_text() == record
    refused(volume, f"(epoch 00000001|snapshot {first}) has other contents")


@pytest.mark.promise("an-older-store-is-refused")
def test_another_encrypted_volume_in_its_place_is_refused(volume: SealedVolume) -> None:
    volume.use(a="1")
    other = SealedVolume(volume.root, "w")
    other.use("there", a="forged")
    shutil.rmtree(volume.store)
    shutil.copytree(other.store, volume.store)
    refused(volume, "another volume than this machine has seen")
    assert read_all(volume.open(accept_rollback=True)) == {"a": "forged"}


@pytest.mark.promise("an-older-store-is-refused")
def test_a_plain_volume_in_its_place_is_refused(volume: SealedVolume) -> None:
    volume.use(a="1")
    shutil.rmtree(volume.store)
    volume.store.mkdir()
    create_volume(volume.settings(), VolumeSettings())
    volume.key_file = None
    refused(volume, "is not encrypted, and this machine has seen an encrypted one")
    opened = volume.open(accept_rollback=True)
    opened.finish()
    opened.close()
    assert read_all(volume.open()) == {}


def test_a_volume_that_this_machine_makes_anew_is_its_own(volume: SealedVolume) -> None:
    volume.use(a="1")
    shutil.rmtree(volume.store)
    volume.store.mkdir()
    create_volume(volume.settings("here"), VolumeSettings(encrypt=True))
    assert read_all(volume.open()) == {}


def test_a_replaced_root_is_refused_until_its_fingerprint_is_given(volume: SealedVolume) -> None:
    volume.use(a="1")
    copy = volume.keep()
    volume.use(b="2")
    new = volume.rotate(lambda keys: keys.keys.replace_root(keys.unlocked, [(KeyFile.of(KEY), "kept")]))
    fingerprint = volume.plain().keys.fingerprint
    refused(volume, f"the root of .* was replaced: its fingerprint is {fingerprint}, and was {volume.fingerprint}")
    with pytest.raises(StoreRolledBack, match="fingerprint"):
        volume.look(fingerprint=volume.fingerprint)
    volume.look(fingerprint=fingerprint.upper())
    volume.look()
    assert new.sequence == 2
    volume.put_back(copy)
    refused(volume, "the root of .* was replaced")


def test_the_process_that_replaces_the_root_goes_on(volume: SealedVolume) -> None:
    volume.use(a="1")
    first = rotate_keys(volume.settings("here"))
    second = replace_root(volume.settings("here"), (), ())
    assert first["fingerprint"] == volume.fingerprint != second["fingerprint"]
    assert read_all(volume.open()) == {"a": "1"}


def test_a_machine_that_has_seen_nothing_accepts_what_is_there(volume: SealedVolume) -> None:
    volume.use(a="1")
    copy = volume.keep()
    volume.use(b="2")
    volume.put_back(copy)
    assert read_all(volume.open("there")) == {"a": "1"}


def test_a_verb_without_state_begins_a_record(volume: SealedVolume) -> None:
    volume.use(a="1")
    copy = volume.keep()
    newest = volume.use(b="2")
    list_unmounted(volume.settings("there"), volume.folders("there"), ListSnapshotsRequest(), lambda _: None)
    volume.put_back(copy)
    refused(volume, f"(epoch 00000002|snapshot {newest}) is gone", "there")


def test_two_machines_that_write_in_turn_are_never_refused(volume: SealedVolume) -> None:
    for number in range(3):
        for host in ("here", "there"):
            volume.use(host, **{f"{host}{number}": "1"})
    oldest, *_, newest = volume.archive().ids()
    delete_unmounted(
        volume.settings("there"), volume.folders("there"), DeleteSnapshotsRequest([oldest]), lambda _: None
    )
    assert len(read_all(volume.open())) == 6
    assert newest in volume.record("there").read_text()


def test_a_seen_snapshot_may_be_gone_once_a_later_one_is_there(volume: SealedVolume) -> None:
    seen = volume.use("here", a="1")
    volume.use("there", b="2")
    delete_unmounted(volume.settings("there"), volume.folders("there"), DeleteSnapshotsRequest([seen]), lambda _: None)
    assert read_all(volume.open()) == {"a": "1", "b": "2"}


def test_what_a_fenced_writer_has_published_is_not_expected(volume: SealedVolume) -> None:
    fenced = volume.open("here")
    write(fenced, "a", "1")
    publish(fenced)
    other = volume.open("there", take_over=True)
    write(fenced, "b", "2")
    with pytest.raises(Fenced):
        publish(fenced)
    fenced.close()
    other.finish()
    other.close()
    assert read_all(volume.open()) == {"a": "1"}


def test_a_process_that_dies_before_it_records_a_snapshot_goes_on(volume: SealedVolume) -> None:
    volume.use(a="1")
    opened = volume.open()
    before = volume.record().read_text()
    write(opened, "b", "2")
    newest = publish(opened)
    assert newest in volume.record().read_text()
    volume.record().write_text(before)
    opened.close()
    assert read_all(volume.open()) == {"a": "1", "b": "2"}
    assert newest in volume.record().read_text()


def test_a_record_knows_the_claim_before_anything_is_published(volume: SealedVolume) -> None:
    volume.use(a="1")
    copy = volume.keep()
    opened = volume.open()
    opened.close()
    volume.put_back(copy)
    refused(volume, "epoch 00000002 is gone")


def test_an_object_that_cannot_be_opened_is_never_remembered(volume: SealedVolume) -> None:
    newest = volume.use(a="1")
    forged = volume.store / "snapshots" / "00000009-0000000001"
    shutil.copyfile(volume.store / "snapshots" / newest, forged)
    volume.look()
    assert forged.name not in volume.record().read_text()
    forged.unlink()
    volume.look()


def test_a_damaged_record_is_refused_and_can_be_begun_anew(volume: SealedVolume) -> None:
    volume.use(a="1")
    for text in ("", "{}", '{"uuid": "a", "fingerprint": "b", "keyring": 1, "objects": {"epoch": ["x", "y"]}}'):
        volume.record().write_text(text)
        with pytest.raises(StateConflict, match="--accept-rollback"):
            volume.look()
    volume.look(accept_rollback=True)
    volume.look()


def test_a_new_machine_can_be_told_which_volume_to_expect(volume: SealedVolume) -> None:
    volume.use(a="1")
    volume.look("there", fingerprint=volume.fingerprint)
    with pytest.raises(StoreRolledBack, match=f"fingerprint {volume.fingerprint}, and {'0' * 32} was expected"):
        volume.look("elsewhere", fingerprint="0" * 32)
    plain = SealedVolume.__new__(SealedVolume)
    plain.root, plain.store = volume.root, volume.root / "plain"
    plain.store.mkdir()
    plain.key_file = None
    create_volume(plain.settings(), VolumeSettings())
    with pytest.raises(StoreRolledBack, match="is not encrypted"):
        plain.look("elsewhere", fingerprint=volume.fingerprint)


def test_a_new_machine_can_be_told_which_snapshot_to_expect(volume: SealedVolume) -> None:
    first = volume.use(a="1")
    copy = volume.keep()
    second = volume.use(b="2")
    for expected in (first, second):
        volume.look("there", snapshot=expected)
        volume.look(snapshot=expected)
    volume.put_back(copy)
    with pytest.raises(StoreRolledBack, match=f"lacks snapshot {second} and every later one: its newest is {first}"):
        volume.look("elsewhere", snapshot=second)
    with pytest.raises(VolumeFormatError, match="not the id of a snapshot"):
        volume.look("elsewhere", snapshot="newest")


def test_the_record_is_private_to_its_owner(volume: SealedVolume) -> None:
    volume.use(a="1")
    assert volume.record().parent.stat().st_mode & 0o077 == 0


def test_the_key_that_opened_the_volume_last_is_tried_first(volume: SealedVolume) -> None:
    """Entries that somebody adds to the store lock out only machines that have not seen the volume."""
    volume.look("here")
    (entry,) = (volume.store / "keys").iterdir()
    for number in range(40):
        shutil.copy(entry, volume.store / "keys" / f"{number:032d}")
    volume.look("here")
    with pytest.raises(SecretWrong, match="41 entries, of which 32 were tried"):
        volume.look("elsewhere")


class TestStoreThatShowsTwoStates:
    """A store that shows the newest state to whoever asks for an object by name, and lists an older one."""

    @pytest.fixture
    def hide(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        """Leaves objects with such keys out of listings."""

        def hide(text: str) -> None:
            listed = DirectoryStore.list_page

            def list_page(store: DirectoryStore, prefix: str = "", start_after: str = "") -> ListPage:
                page = listed(store, prefix, start_after)
                return ListPage([one for one in page.objects if text not in one.key], page.next_start)

            monkeypatch.setattr(DirectoryStore, "list_page", list_page)

        return hide

    def test_a_reader_finds_the_newest_snapshot_that_it_has_seen(
        self, volume: SealedVolume, hide: Callable[[str], None]
    ) -> None:
        volume.use(a="1")
        newest = volume.use(b="2")
        volume.look("there")
        volume.stored().delete_many([f"epochs/00000002{SUB_SEPARATOR}released"])
        hide(f"snapshots/{newest}")
        writer = WriterSettings(cache_size_bytes=0, read_only=True)
        view = open_view(volume.settings("there"), writer, volume.folders("there"))
        view.start(0)
        assert (view.shown, read_all(view)) == (newest, {"a": "1", "b": "2"})
        view.close()

    def test_a_writer_goes_on_from_the_newest_snapshot_that_it_has_seen(
        self, volume: SealedVolume, hide: Callable[[str], None]
    ) -> None:
        volume.use(a="1")
        newest = volume.use(b="2")
        volume.look("there")
        hide(f"snapshots/{newest}")
        assert read_all(volume.open("there")) == {"a": "1", "b": "2"}

    def test_a_claim_of_a_number_that_was_seen_is_refused(
        self, volume: SealedVolume, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        volume.use(a="1")
        copy = volume.keep()
        volume.use(b="2")
        volume.look("there")
        claim = Epochs.claim

        def claiming(*arguments: Any, **options: Any) -> Any:
            volume.put_back(copy)  # right after the check
            return claim(*arguments, **options)

        monkeypatch.setattr(Epochs, "claim", claiming)
        with pytest.raises(StoreRolledBack, match="let epoch 00000002 be claimed, and this machine has seen epoch"):
            volume.open("there")
