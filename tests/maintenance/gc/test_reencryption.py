# SPDX-License-Identifier: GPL-3.0-or-later
"""`cas3fs gc --reencrypt` seals everything anew after a rotation, and drops a generation when nothing needs it."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cas3fs.commands.fsck import check_unmounted
from cas3fs.commands.gc import collect_unmounted
from cas3fs.commands.mkfs import create_volume
from cas3fs.commands.snapshot import delete_unmounted, policy_unmounted
from cas3fs.config import StoreSettings, VolumeSettings, WriterSettings
from cas3fs.control.messages.maintenance import FsckRequest, GcPlanReply, GcPlanRequest, GcRequest
from cas3fs.control.messages.snapshots import DeleteSnapshotsRequest, PolicyRequest
from cas3fs.encryption.sealing import SealHeader
from cas3fs.errors import EpochHeld, StoreRolledBack, StoreUnreachable, UsageError
from cas3fs.maintenance.gc.request import GcResult
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.volume.keys import UnlockedVolume, VolumeKeyStore
from cas3fs.volume.opening import open_view
from tests.volume.conftest import publish, read_all, write
from tests.volume.sealed_volume import SealedVolume

RECORDS = ("epochs", "policies", "forks")
CLEAR = ("volume", "keys", "keyring")
USUAL_POINTS = ("pack-put-after", "blocks-moved", "manifest-put-after", "keyring-put-after", "keyring-delete-before")
LONG_POINTS = (
    *USUAL_POINTS,
    "pack-put-before",
    "packs-marked-dead",
    "pages-put-before",
    "pages-put-after",
    "manifest-put-before",
    "packs-delete-before",
    "packs-delete-after",
    "packs-forgotten",
    "keyring-put-before",
    "keyring-delete-after",
    "release-before",
    "mark-clean-before",
)


def text(seed: int) -> str:
    return random.Random(seed).randbytes(3000).hex()


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[SealedVolume]:
    made = SealedVolume(tmp_path)
    yield made
    made.close()


def generations(volume: SealedVolume, *, records: bool = False) -> set[int]:
    """The generations that objects in the store are sealed with, as their headers say: of content, or of records."""
    found = set()
    for path in volume.store.rglob("*"):
        folder = path.relative_to(volume.store).parts[0]
        if path.is_file() and folder not in CLEAR and (folder in RECORDS) == records:
            found.add(SealHeader.decode(path.read_bytes()[:48]).generation)
    return found


def in_keyring(volume: SealedVolume) -> list[int]:
    return [one.number for one in volume.plain().keys.unlocked.keyring.generations]


def reencrypt(volume: SealedVolume, host: str = "here", **settings: Any) -> GcResult:
    request = GcRequest(grace_s=0, reencrypt=True, **settings)
    done = collect_unmounted(volume.settings(host), volume.folders(host), request, lambda _: None)
    assert isinstance(done, GcResult)
    return done


def delete(volume: SealedVolume, *ids: str) -> None:
    request = DeleteSnapshotsRequest(list(ids))
    delete_unmounted(volume.settings("here"), volume.folders("here"), request, lambda _: None)


def delete_older(volume: SealedVolume) -> None:
    """Deletes all snapshots but the newest."""
    if older := volume.archive().ids()[:-1]:
        delete(volume, *older)


def check(volume: SealedVolume, files: Mapping[str, str], host: str = "elsewhere") -> None:
    """A machine that has seen nothing reads every file, and finds nothing wrong."""
    view = open_view(volume.settings(host), WriterSettings(cache_size_bytes=0, read_only=True), volume.folders(host))
    view.start(0)
    assert read_all(view) == files
    view.close()
    told = check_unmounted(volume.settings(host), volume.folders(host), FsckRequest(verify_data=True), lambda _: None)
    assert (told.status, told.codes) == (0, {})


def test_a_generation_is_dropped_when_nothing_is_sealed_with_it(volume: SealedVolume) -> None:
    files = {"a": text(1), "b": text(2)}
    policy_unmounted(
        volume.settings("here"), volume.folders("here"), PolicyRequest(RetentionPolicy(last=9)), lambda _: None
    )
    volume.use(**files)
    volume.rotate()
    reencrypt(volume)
    delete_older(volume)
    done = reencrypt(volume)
    assert generations(volume) == {2}
    assert in_keyring(volume) == [2]
    assert (done.reencryption["dropped"], done.reencryption["left_objects"]) == ((1,), 0)
    assert len(list((volume.store / "keyring").iterdir())) == 1
    check(volume, files)


def test_epochs_and_policies_stay_readable_with_keys_of_their_own(volume: SealedVolume) -> None:
    kept = RetentionPolicy(last=9)
    policy_unmounted(volume.settings("here"), volume.folders("here"), PolicyRequest(kept), lambda _: None)
    volume.use(a=text(1))
    for _ in range(2):
        volume.rotate()
        reencrypt(volume)
        delete_older(volume)
        reencrypt(volume)
    assert in_keyring(volume) == [3]
    assert generations(volume, records=True) >= {1, 2, 3}
    keyring = volume.plain().keys.unlocked.keyring
    assert {name.partition("/")[0] for name in keyring.records} == {"epochs", "policies"}
    request = PolicyRequest()
    assert policy_unmounted(volume.settings("here"), volume.folders("here"), request, lambda _: None) == kept
    check(volume, {"a": text(1)})


def test_retained_snapshots_keep_their_generation_and_are_named(volume: SealedVolume) -> None:
    older = volume.use(a=text(1))
    volume.rotate()
    done = reencrypt(volume).reencryption
    assert in_keyring(volume) == [1, 2]
    (held,) = (one for one in done["snapshots"] if one["snapshot"] == older)
    assert held["bytes"] == done["left_bytes"] > 3000
    assert done["kept"] == (1,)
    assert (done["other_bytes"], done["dropped"]) == (0, ())
    check(volume, {"a": text(1)})
    view = open_view(
        volume.settings("there"),
        WriterSettings(cache_size_bytes=0, read_only=True, snapshot=older),
        volume.folders("there"),
    )
    view.start(0)
    assert read_all(view) == {"a": text(1)}
    view.close()


def test_a_limit_of_bytes_ends_a_run_and_the_next_goes_on(volume: SealedVolume) -> None:
    files = {}
    for number in range(4):
        files[f"f{number}"] = text(number)
        volume.use(**{f"f{number}": text(number)})
    volume.rotate()
    runs = 0
    while in_keyring(volume) != [2]:
        reencrypt(volume, max_rewrite_bytes=4000)
        delete_older(volume)
        runs += 1
        assert runs < 10
    assert runs >= 4
    check(volume, files)


def test_a_plan_says_what_is_rewritten_and_changes_nothing(volume: SealedVolume) -> None:
    volume.use(a=text(1))
    volume.rotate()
    for asked, expected in ((True, 1), (False, 0)):
        plan = collect_unmounted(
            volume.settings("here"), volume.folders("here"), GcPlanRequest(reencrypt=asked), lambda _: None
        )
        assert isinstance(plan, GcPlanReply)
        assert plan.rewrite_packs == expected
    assert in_keyring(volume) == [1, 2]


def test_a_gc_without_the_option_keeps_all_generations(volume: SealedVolume) -> None:
    volume.use(a=text(1))
    volume.rotate()
    done = collect_unmounted(volume.settings("here"), volume.folders("here"), GcRequest(grace_s=0), lambda _: None)
    assert isinstance(done, GcResult)
    assert (dict(done.reencryption), in_keyring(volume)) == ({}, [1, 2])


def test_a_plain_volume_has_nothing_to_be_encrypted_anew(volume: SealedVolume) -> None:
    (volume.root / "plain").mkdir()
    plain = StoreSettings((volume.root / "plain").as_uri())
    create_volume(plain, VolumeSettings())
    for request in (GcRequest(reencrypt=True), GcPlanRequest(reencrypt=True)):
        with pytest.raises(UsageError, match="is not encrypted"):
            collect_unmounted(plain, volume.folders("here"), request, lambda _: None)


def test_a_running_writer_seals_with_a_newer_generation_from_its_next_snapshot(volume: SealedVolume) -> None:
    opened = volume.open()
    write(opened, "a", text(1))
    publish(opened)
    assert generations(volume) == {1}
    volume.rotate()
    before = {path for path in volume.store.rglob("*") if path.is_file()}
    write(opened, "b", text(2))
    newest = publish(opened)
    new = {path for path in volume.store.rglob("*") if path.is_file()} - before
    assert {SealHeader.decode(path.read_bytes()[:48]).generation for path in new} == {2}
    assert {path.parent.name for path in new} >= {"pages", "snapshots", "00000001"}
    assert newest in volume.record().read_text()
    assert '"keyring": 2' in volume.record().read_text()


def test_a_snapshot_after_a_rotation_needs_no_older_pages(volume: SealedVolume) -> None:
    volume.use(a=text(1))
    volume.rotate()
    newest = volume.use(b=text(2))
    pages = {use.id for use in volume.archive().load(newest).pages}
    used = {SealHeader.decode((volume.store / "pages" / one).read_bytes()[:48]).generation for one in pages}
    assert used == {2}
    after = volume.use(c=text(3))
    assert {use.id for use in volume.archive().load(after).pages} & pages  # they are reused as ever


def test_a_claim_reads_the_keyring_again(volume: SealedVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    volume.use(a=text(1))
    made = UnlockedVolume.notice
    opened_with: list[int] = []

    def notice(keys: UnlockedVolume) -> Any:
        if not opened_with:
            opened_with.append(keys.sequence)
            volume.rotate()  # on another machine, after this one has opened the volume
        return made(keys)

    monkeypatch.setattr(UnlockedVolume, "notice", notice)
    opened = volume.open()
    write(opened, "b", text(2))
    opened.filesystem.store_all()
    assert opened_with == [1]
    assert {
        SealHeader.in_name(f"packs/00000002/{path.name}").generation
        for path in (volume.store / "packs" / "00000002").iterdir()  # type: ignore[union-attr]
    } == {2}


def test_nothing_is_dropped_while_a_writer_was_taken_over(volume: SealedVolume) -> None:
    fenced = volume.open("there")
    write(fenced, "lost", text(1))
    fenced.filesystem.store_all()
    fenced.close()
    other = volume.open("here", take_over=True)
    write(other, "a", text(2))
    other.finish()
    other.close()
    volume.rotate()
    reencrypt(volume)
    delete_older(volume)
    done = reencrypt(volume).reencryption
    assert in_keyring(volume) == [1, 2]
    assert "cas3fs epochs --release" in done["waits"]


def test_a_young_unreferenced_object_keeps_its_generation(volume: SealedVolume) -> None:
    opened = volume.open()
    write(opened, "a", text(1))
    publish(opened)
    (pack,) = (volume.store / "packs" / "00000001").iterdir()
    body = pack.read_bytes()
    opened.finish()
    opened.close()
    volume.rotate()
    reencrypt(volume)
    delete_older(volume)
    pack.parent.mkdir(exist_ok=True)
    pack.with_name("0001" + "ab" * 30).write_bytes(body)
    request = GcRequest(grace_s=3600, reencrypt=True)
    done = collect_unmounted(volume.settings("here"), volume.folders("here"), request, lambda _: None)
    assert isinstance(done, GcResult)
    assert done.reencryption["other_bytes"] > 3000
    assert in_keyring(volume) == [1, 2]
    reencrypt(volume)
    assert in_keyring(volume) == [2]


def test_a_volume_that_is_held_elsewhere_is_not_encrypted_anew(volume: SealedVolume) -> None:
    volume.open("there")
    volume.rotate()
    with pytest.raises(EpochHeld):
        reencrypt(volume)


def run_gc(volume: SealedVolume, *before: str) -> subprocess.CompletedProcess[str]:
    """Runs ``cas3fs gc --reencrypt`` as a process of its own."""
    environment = os.environ | {
        "CAS3FS_STATE_DIR": str(volume.root / "here"),
        "CAS3FS_CACHE_DIR": str(volume.root / "cache" / "here"),
    }
    arguments = ["gc", "--reencrypt", "--grace", "0s", "--key-file", str(volume.key_file), volume.store.as_uri()]
    return subprocess.run(
        [sys.executable, "-m", *before, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", LONG_POINTS if metafunc.config.getoption("--long") else USUAL_POINTS)


def test_a_killed_run_loses_nothing_and_the_next_ones_finish(volume: SealedVolume, point: str) -> None:
    files = {"a": text(1), "b": text(2)}
    older = volume.use(**files)
    newest = volume.use(c=text(3))
    files["c"] = text(3)
    volume.rotate()
    if point.startswith(("keyring", "packs-delete", "packs-forgotten")):
        reencrypt(volume)
        delete_older(volume)
    killed = run_gc(volume, "cas3fs.testing.failpoints", "kill", point)
    assert killed.returncode == -signal.SIGKILL, (killed.stdout, killed.stderr)
    check(volume, files)
    assert older in volume.archive().ids() or newest not in volume.archive().ids()
    reencrypt(volume)
    delete_older(volume)
    done = run_gc(volume, "cas3fs")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing in the store needs older keys" in done.stdout
    assert (generations(volume), in_keyring(volume)) == ({2}, [2])
    check(volume, files)


@pytest.mark.parametrize("step", ["before", "after", "forgetting"])
def test_a_process_that_dies_while_it_drops_a_generation_loses_nothing(
    volume: SealedVolume, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    volume.use(a=text(1))
    volume.rotate()
    reencrypt(volume)
    delete_older(volume)
    save = VolumeKeyStore._save_keyring

    def dying(self: VolumeKeyStore, *arguments: Any) -> None:
        if step == "after":
            save(self, *arguments)
        raise StoreUnreachable("it is gone")

    with monkeypatch.context() as patched:
        patched.setattr(VolumeKeyStore, "forget_older" if step == "forgetting" else "_save_keyring", dying)
        if step == "forgetting":
            patched.setattr(VolumeKeyStore, "forget_older", lambda *_: (_ for _ in ()).throw(StoreUnreachable("gone")))
        with pytest.raises(StoreUnreachable):
            reencrypt(volume)
    check(volume, {"a": text(1)})
    reencrypt(volume)
    assert in_keyring(volume) == [2]
    assert len(list((volume.store / "keyring").iterdir())) == 1
    check(volume, {"a": text(1)}, "new")


def test_a_second_rotation_during_a_run_keeps_what_it_needs(
    volume: SealedVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.use(a=text(1))
    volume.rotate()
    reencrypt(volume)
    delete_older(volume)
    save = VolumeKeyStore._save_keyring
    rotated: list[int] = []

    def rotating(self: VolumeKeyStore, *arguments: Any) -> None:
        if not rotated:
            rotated.append(1)
            volume.rotate()
        save(self, *arguments)

    monkeypatch.setattr(VolumeKeyStore, "_save_keyring", rotating)
    reencrypt(volume)
    assert in_keyring(volume) == [2, 3]
    check(volume, {"a": text(1)})


def test_an_older_keyring_that_is_put_back_opens_nothing_new(volume: SealedVolume) -> None:
    volume.use(a=text(1))
    (old,) = (volume.store / "keyring").iterdir()
    kept = old.read_bytes()
    volume.rotate()
    reencrypt(volume)
    delete_older(volume)
    reencrypt(volume)
    (newest,) = (volume.store / "keyring").iterdir()
    old.write_bytes(kept)
    check(volume, {"a": text(1)})
    newest.unlink()
    with pytest.raises(StoreRolledBack, match="its keyring has the number 1, and had 3"):
        volume.open()
