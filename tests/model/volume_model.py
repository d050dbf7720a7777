# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume under random operations, beside a model of what was acknowledged.

Two machines mount it in turn; they write, publish, collect garbage, restore, unmount and are killed. State directories
are replaced by old copies; the store is replaced by a backup, and copied; one machine takes over from the other.
Requests to the store fail, listings are wrong, and statements of the databases fail meanwhile. The model is a tree, a
dict of texts by name: that of the open volume, that of each machine's state directory, and that of each snapshot.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import attrs

from cas3fs.commands.fsck import check_unmounted
from cas3fs.commands.gc import collect_unmounted
from cas3fs.commands.restore import restore_head
from cas3fs.config import WriterSettings
from cas3fs.control import Message
from cas3fs.control.messages.maintenance import FsckRequest, GcRequest
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.identity import MachineId
from cas3fs.errors import Cas3fsError, EpochHeld, Fenced, StateConflict
from cas3fs.filesystem import ROOT
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.snapshots.archive import SnapshotArchive
from cas3fs.snapshots.policy import RetentionPolicy
from cas3fs.testing.faults import FaultKind
from cas3fs.testing.faulty_store import FaultyStores
from cas3fs.testing.sqlite_faults import SqliteFault, SqliteFaults
from cas3fs.testing.store_damage import StoreCopy, copy_objects, copy_to, restore_objects
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume, open_writer
from tests.encrypted import unsealed
from tests.live_folders import copy_live_folder
from tests.volume.conftest import Volume, copy_punched, read_all, view_of, write

HOSTS = {"one": MachineId("a" * 32), "two": MachineId("b" * 32)}
LISTINGS = (FaultKind.EVENTUAL_LISTING, FaultKind.LISTING_ENDS_EARLY, FaultKind.LISTING_LACKS)
FAILURES = (
    FaultKind.UNAVAILABLE,
    FaultKind.RESET,
    FaultKind.TRUNCATED,
    FaultKind.APPLIED_THEN_ERROR,
    FaultKind.DELETION_REFUSED,
    *LISTINGS,
)
STATEMENTS = (SqliteFault.FULL, SqliteFault.FULL_STATEMENT, SqliteFault.IOERR)
PREFIXES = ("", "packs/", "pages/", "snapshots/", "epochs/")
Tree = dict[str, str]


def ignore_progress(message: Message) -> None:
    """Ignore the progress of a command."""


@attrs.frozen
class LocalState:
    """A state directory: its tree, the newest snapshot that it knows, and how often the volume had been claimed."""

    tree: Tree
    head: str | None
    claims: int


class VolumeModel:
    """One volume; `step` does a random operation, and `check` compares everything with the model."""

    def __init__(self, folder: Path, seed: int, stores: FaultyStores, sqlite: SqliteFaults) -> None:
        self.folder, self.chance, self.stores, self.sqlite = folder, random.Random(seed), stores, sqlite
        self.host = "one"
        self.volume = Volume(folder)
        self.volume.store_settings = self.volume.accepting_rollback  # of an encrypted volume
        self.store = stores.without_faults(self.volume.store_settings.url)
        self.archive = SnapshotArchive(Shelf(unsealed(self.store)))
        self.opened: OpenVolume | None = None
        self.tree: Tree = {}
        self.local: dict[str, LocalState] = {}
        self.published: dict[str, Tree] = {}
        self.claims = 0
        self.number = 0
        self.state_copies: list[tuple[str, Path, LocalState]] = []
        self.backups: list[tuple[StoreCopy, dict[str, Tree]]] = []
        self.log: list[str] = []

    # -- steps

    def step(self) -> None:
        """Do a random operation."""
        mounted: list[Callable[[], None]] = [
            *[self.write] * 6,
            *[self.copy] * 2,
            *[self.remove] * 2,
            *[self.publish] * 3,
            self.gc,
            self.prune,
            self.finish,
            self.finish,
            self.kill,
            self.take_over,
            self.copy_state,
            self.back_up,
            self.copy_store,
        ]
        unmounted: list[Callable[[], None]] = [
            *[self.open] * 4,
            self.restore_state,
            self.restore_store,
            self.restore,
            self.collect,
            self.lose_machine,
        ]
        act = self.chance.choice(mounted if self.opened is not None else unmounted)
        self.log.append(f"{act.__name__} on {self.host}")
        act()

    def attempt(self, act: Callable[[], object], *, note: bool = True) -> bool:
        """Call `act`, perhaps with faults; whether it succeeded."""
        failed = False
        with self.faults() as faults:
            try:
                act()
            except (Cas3fsError, OSError) as error:
                assert faults, error
                self.log.append(f"  {type(error).__name__}: {error}")
                failed = True
            finally:
                self.stores.faults.clear()
                if note:
                    self.note_published()
        if failed and self.opened is not None:
            self.opened.filesystem.commit()  # the next commit repeats what SQLite has rolled back
        return not failed

    @contextmanager
    def faults(self) -> Iterator[list[object]]:
        """Perhaps let requests to the store fail, or statements of the databases, or both."""
        on: list[object] = []
        with ExitStack() as made:
            if self.chance.random() < 0.4:
                kind, prefix = self.chance.choice(FAILURES), self.chance.choice(PREFIXES)
                times = self.chance.choice([1, 2, None]) if kind in LISTINGS else self.chance.choice([1, 3, 8])
                newest = sorted(info.key for info in self.store.list(prefix))[-1:]
                keys = newest if kind is FaultKind.LISTING_LACKS else ()
                on.append(self.stores.faults.switch_on(kind, key_prefix=prefix, times=times, keys=keys))
                self.log.append(f"  with {kind.name} {prefix} {times}")
            if self.chance.random() < 0.2:
                kind_, file = self.chance.choice(STATEMENTS), self.chance.choice(["index.sqlite", "staging.sqlite"])
                at = self.chance.randrange(1, 40)
                on.append(made.enter_context(self.sqlite.on(kind_, at=at, file=file)))
                self.log.append(f"  with {kind_.name} at statement {at} of {file}")
            yield on

    def note_published(self) -> None:
        """Record new snapshots with the tree of this moment, even if the operation that made them failed."""
        present = self.archive.ids()
        for snapshot in present:
            if snapshot not in self.published:
                self.published[snapshot] = dict(self.tree)
                self.log.append(f"  {snapshot}: {brief(self.tree)}")
        self.published = {snapshot: self.published[snapshot] for snapshot in present}

    @property
    def newest(self) -> str | None:
        return max(self.archive.ids(), default=None)

    # -- while the volume is open

    def write(self) -> None:
        assert self.opened is not None
        self.number += 1
        name = f"f{self.chance.randrange(8)}"
        text = f"{self.number} " * self.chance.choice([1, 400, 30_000]) if self.chance.random() < 0.8 else "same" * 9000
        opened = self.opened

        def write_() -> None:
            if name in self.tree:
                opened.filesystem.unlink(ROOT, name.encode())
            write(opened, name, text)

        if self.attempt(write_):
            self.tree[name] = text
        else:
            self.follow_failure(name, {None, "", text, self.tree.get(name)})

    def copy(self) -> None:
        """Copy a file to a name, and punch a hole in the copy."""
        assert self.opened is not None
        opened, name = self.opened, f"f{self.chance.randrange(8)}"
        source = self.chance.choice(sorted(self.tree.keys() - {name}) or [name])
        if source == name:
            return
        text = self.tree[source]
        hole = len(text) // 2
        punched = "\0" * hole + text[hole:]

        def copy_() -> None:
            if name in self.tree:
                opened.filesystem.unlink(ROOT, name.encode())
            copy_punched(opened, source, name, hole)

        if self.attempt(copy_):
            self.tree[name] = punched
        else:
            self.follow_failure(name, {None, "", text, punched, self.tree.get(name)})

    def follow_failure(self, name: str, possible: set[str | None]) -> None:
        """Adopt the state of a file whose change has failed."""
        assert self.opened is not None
        text = read_all(self.opened).get(name)
        assert text in possible
        if text is None:
            self.tree.pop(name, None)
        else:
            self.tree[name] = text

    def remove(self) -> None:
        assert self.opened is not None
        if self.tree:
            name = self.chance.choice(sorted(self.tree))
            opened = self.opened
            if self.attempt(lambda: opened.filesystem.unlink(ROOT, name.encode())):
                del self.tree[name]
            else:
                self.follow_failure(name, {None, self.tree[name]})

    def publish(self) -> None:
        opened = self.opened
        assert opened is not None and opened.publisher is not None
        publisher = opened.publisher
        made: list[str] = []
        if self.attempt(lambda: made.append(publisher.publish())):
            assert self.published[made[0]] == self.tree, made[0]
        self.compare()

    def compare(self) -> None:
        """Compare the open volume with the model."""
        assert self.opened is not None
        assert read_all(self.opened) == self.tree

    def gc(self) -> None:
        opened = self.opened
        assert opened is not None
        self.attempt(lambda: GcScheduler(opened).collect(GcSettings(grace_s=0), ignore_progress))
        self.compare()

    def prune(self) -> None:
        assert self.opened is not None and self.opened.publisher is not None
        publisher = self.opened.publisher

        def prune() -> None:
            with publisher.exclusively():
                publisher.pruner.prune(RetentionPolicy(last=2))

        self.attempt(prune)
        self.compare()

    def finish(self) -> None:
        assert self.opened is not None
        if self.attempt(self.opened.finish):
            assert self.published[str(self.newest)] == self.tree
        self.close()

    def kill(self) -> None:
        """Kill the process after a commit."""
        assert self.opened is not None
        self.opened.filesystem.commit()
        self.close()

    def close(self) -> None:
        assert self.opened is not None
        self.local[self.host] = LocalState(dict(self.tree), self.newest, self.claims)
        self.opened.close()
        self.opened = None

    def take_over(self) -> None:
        """Let the other machine take over while this one still acts as the writer."""
        assert self.opened is not None and self.opened.publisher is not None
        old, before = self.opened, self.host
        old.filesystem.commit()
        self.local[before] = LocalState(dict(self.tree), self.newest, self.claims)
        self.opened = None
        self.host = next(host for host in HOSTS if host != before)
        self.open()
        there = self.archive.ids()
        write(old, "of nobody", str(self.number))
        with self.on(before):
            try:
                old.publisher.publish()  # type: ignore[union-attr]
            except Fenced:
                pass
            else:
                raise AssertionError("a fenced writer has acknowledged a snapshot")
        assert self.archive.ids() == there
        old.close()
        self.local[before] = LocalState({**self.local[before].tree, "of nobody": str(self.number)}, None, -1)
        self.compare()

    # -- while the volume is closed

    def on(self, host: str) -> "mock._patch[Callable[[], MachineId]]":
        """Let this process run on that machine."""
        return mock.patch("cas3fs.epochs.identity.local_machine_id", lambda: HOSTS[host])

    def open(self) -> None:
        local, newest = self.local.get(self.host), self.newest
        published = self.published.get(newest, {}) if newest is not None else {}
        opened: list[OpenVolume] = []
        aside = self.set_aside()

        def open_() -> None:
            with self.on(self.host):
                settings = WriterSettings(cache_size_bytes=0, take_over=True)
                made = open_writer(self.volume.store_settings, settings, self.volume.folders(self.host))
                self.volume.closing(made)
                try:
                    made.start(0)
                except BaseException:
                    made.close()
                    raise
                opened.append(made)

        self.claims += 1
        if not self.attempt(open_, note=False):
            open_()
        self.opened = opened[-1]
        found = read_all(self.opened)
        allowed = [published]
        if local is not None and local.head == newest and local.tree != published:
            # unpublished changes of this machine are kept, unless there was another writer since
            allowed = [local.tree] if local.claims == self.claims - 1 else [local.tree, published]
        elif local is not None and local.claims == -1:
            allowed = [published]
        assert found in allowed, f"found {brief(found)}, expected one of {list(map(brief, allowed))}"
        if local is not None and found != local.tree and local.tree not in self.published.values():
            assert self.set_aside() > aside, "unpublished changes of this machine are lost"
        self.tree = found
        self.note_published()  # a takeover publishes the state from which it continues

    def set_aside(self) -> int:
        """How many states of this machine were set aside."""
        return len(list(self.volume.state(self.host).glob("set-aside/*")))

    def copy_state(self) -> None:
        """Copy the state directory while the volume is open."""
        assert self.opened is not None
        self.opened.filesystem.commit()
        copy = self.folder / f"copy{len(self.state_copies)}"
        copy_live_folder(self.volume.state(self.host), copy, ignore=shutil.ignore_patterns("*.sock"))
        self.state_copies.append((self.host, copy, LocalState(dict(self.tree), self.newest, self.claims)))

    def restore_state(self) -> None:
        if self.state_copies:
            self.host, copy, local = self.chance.choice(self.state_copies)
            state = self.volume.state(self.host)
            if state.exists():
                shutil.rmtree(state)
            shutil.copytree(copy, state)
            self.local[self.host] = attrs.evolve(local, claims=0)
        self.open()

    def lose_machine(self) -> None:
        """Lose the machine's disk."""
        shutil.rmtree(self.volume.state(self.host), ignore_errors=True)
        self.local.pop(self.host, None)
        self.open()

    def back_up(self) -> None:
        self.backups.append((copy_objects(self.store), dict(self.published)))

    def restore_store(self) -> None:
        if self.backups:
            copy, published = self.chance.choice(self.backups)
            packs = {info.key for info in self.store.list("packs/")}
            # packs stored since and named by no snapshot would be lost: volume/test_old_store.py
            if max(published, default=None) != self.newest or packs <= copy.objects.keys():
                self.published = dict(published)
                restore_objects(self.store, copy)
                self.claims += 1  # in the backup another machine may hold the volume
        self.open()

    def copy_store(self) -> None:
        """Copy the store and use the copy on another machine."""
        place = self.folder / f"elsewhere{self.number}-{len(self.log)}"
        place.mkdir()
        other = self.volume.at(place)
        copy_to(self.store, self.stores.without_faults(other.store_settings.url))
        newest = self.newest
        with self.on("two"):
            opened = other.open("of the copy", take_over=True)
            assert read_all(opened) == (self.published[newest] if newest else {})
            write(opened, "of the copy", "1")
            opened.finish()
            opened.close()
        clean(other, "of the copy")
        self.compare()

    def restore(self) -> None:
        """Make an older snapshot the head."""
        local = self.local.get(self.host)
        snapshot = self.chance.choice(self.archive.ids() or [None])  # type: ignore[list-item]
        if snapshot is None or local is None:
            return
        is_head = snapshot == self.newest
        try:
            with self.on(self.host):
                restore_head(self.volume.store_settings, self.volume.folders(self.host), snapshot, ignore_progress)
        except (StateConflict, EpochHeld) as error:
            self.log.append(f"  {type(error).__name__}: {error}")
            return
        self.claims += 1
        self.tree = local.tree if is_head else self.published[snapshot]
        self.note_published()
        self.local[self.host] = LocalState(dict(self.tree), self.newest, self.claims)

    def collect(self) -> None:
        def collect() -> None:
            with self.on(self.host):
                collect_unmounted(
                    self.volume.store_settings, self.volume.folders(self.host), GcRequest(grace_s=0), ignore_progress
                )

        self.open()
        self.finish_without_faults()
        self.attempt(collect)
        self.claims += 1
        self.local[self.host] = LocalState(dict(self.tree), self.newest, self.claims)

    def finish_without_faults(self) -> None:
        assert self.opened is not None
        self.opened.finish()
        self.note_published()
        self.close()

    # -- checks

    def check(self) -> None:
        """Check that every snapshot shows its tree, and that fsck finds nothing."""
        if self.opened is None:
            self.open()
        self.finish_without_faults()
        for snapshot, tree in self.published.items():
            view = view_of(self.volume, snapshot, f"viewer of {snapshot}")
            found = read_all(view)
            view.close()
            assert found == tree, f"{snapshot} has {brief(found)}, had {brief(tree)}"
        clean(self.volume, self.host)


def brief(tree: Tree) -> dict[str, str]:
    """The beginnings of the texts, for messages."""
    return {name: text[:9] for name, text in sorted(tree.items())}


def clean(volume: Volume, host: str) -> None:
    messages: list[Message] = []
    result = check_unmounted(
        volume.store_settings, volume.folders(host), FsckRequest(verify_data=True), messages.append
    )
    # after a failed statement, readable records are in a new database, and the old one is set aside
    assert result.codes.keys() <= {"staging-put-aside"}, [one for one in messages if "finding" in one]
