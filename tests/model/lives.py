# SPDX-License-Identifier: GPL-3.0-or-later
"""The lives of a volume, at random, beside a model of what was acknowledged.

Two machines mount it in turn; they write, publish, collect, restore, unmount and die. State folders are put back from
old copies, the store is put back from a backup, and copied; one machine takes over from the other. Requests to the
store fail, listings lie, and statements of the databases fail while all that goes on. The model is a tree, a dict of
texts by name: the one that is open, that of each machine's state folder, and that of each snapshot.
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
from tests.volume.conftest import Volume, read_all, view_of, write

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


def silent(message: Message) -> None:
    """Nobody watches."""


@attrs.frozen
class Local:
    """What a state folder has: its tree, the newest snapshot that it knows of, and how often anybody has claimed."""

    tree: Tree
    head: str | None
    claims: int


class Lives:
    """One volume; `step` does one thing at random, and `check` looks at everything."""

    def __init__(self, folder: Path, seed: int, stores: FaultyStores, sqlite: SqliteFaults) -> None:
        self.folder, self.chance, self.stores, self.sqlite = folder, random.Random(seed), stores, sqlite
        self.host = "one"
        self.volume = Volume(folder)
        self.store = stores.without_faults(self.volume.store_settings.url)
        self.archive = SnapshotArchive(Shelf(self.store))
        self.opened: OpenVolume | None = None
        self.tree: Tree = {}
        self.local: dict[str, Local] = {}
        self.published: dict[str, Tree] = {}
        self.claims = 0
        self.number = 0
        self.state_copies: list[tuple[str, Path, Local]] = []
        self.backups: list[tuple[StoreCopy, dict[str, Tree]]] = []
        self.told: list[str] = []

    # -- one thing after the other

    def step(self) -> None:
        """Does something."""
        mounted: list[Callable[[], None]] = [
            *[self.write] * 6,
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
            self.put_state_back,
            self.put_store_back,
            self.restore,
            self.collect,
            self.lose_machine,
        ]
        act = self.chance.choice(mounted if self.opened is not None else unmounted)
        self.told.append(f"{act.__name__} on {self.host}")
        act()

    def try_to(self, act: Callable[[], object], *, note: bool = True) -> bool:
        """Whether it could, with a fault of the store or without."""
        failed = False
        with self.trouble() as trouble:
            try:
                act()
            except (Cas3fsError, OSError) as error:
                assert trouble, error
                self.told.append(f"  {type(error).__name__}: {error}")
                failed = True
            finally:
                self.stores.faults.clear()
                if note:
                    self.note_published()
        if failed and self.opened is not None:
            self.opened.filesystem.commit()  # what SQLite has undone is done again by the next commit
        return not failed

    @contextmanager
    def trouble(self) -> Iterator[list[object]]:
        """What fails meanwhile: requests to the store, statements of the databases, both or nothing."""
        on: list[object] = []
        with ExitStack() as made:
            if self.chance.random() < 0.4:
                kind, prefix = self.chance.choice(FAILURES), self.chance.choice(PREFIXES)
                times = self.chance.choice([1, 2, None]) if kind in LISTINGS else self.chance.choice([1, 3, 8])
                newest = sorted(info.key for info in self.store.list(prefix))[-1:]
                keys = newest if kind is FaultKind.LISTING_LACKS else ()
                on.append(self.stores.faults.switch_on(kind, key_prefix=prefix, times=times, keys=keys))
                self.told.append(f"  with {kind.name} {prefix} {times}")
            if self.chance.random() < 0.2:
                kind_, file = self.chance.choice(STATEMENTS), self.chance.choice(["index.sqlite", "staging.sqlite"])
                at = self.chance.randrange(1, 40)
                on.append(made.enter_context(self.sqlite.on(kind_, at=at, file=file)))
                self.told.append(f"  with {kind_.name} at statement {at} of {file}")
            yield on

    def note_published(self) -> None:
        """A snapshot that nobody knew is of this moment, though who made it may have failed afterwards."""
        present = self.archive.ids()
        for snapshot in present:
            if snapshot not in self.published:
                self.published[snapshot] = dict(self.tree)
                self.told.append(f"  {snapshot}: {brief(self.tree)}")
        self.published = {snapshot: self.published[snapshot] for snapshot in present}

    @property
    def newest(self) -> str | None:
        return max(self.archive.ids(), default=None)

    # -- while it is open

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

        if self.try_to(write_):
            self.tree[name] = text
        else:
            self.look_at(name, {None, "", text, self.tree.get(name)})

    def look_at(self, name: str, possible: set[str | None]) -> None:
        """A change of that file has failed: the model follows."""
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
            if self.try_to(lambda: opened.filesystem.unlink(ROOT, name.encode())):
                del self.tree[name]
            else:
                self.look_at(name, {None, self.tree[name]})

    def publish(self) -> None:
        opened = self.opened
        assert opened is not None and opened.publisher is not None
        publisher = opened.publisher
        made: list[str] = []
        if self.try_to(lambda: made.append(publisher.publish())):
            assert self.published[made[0]] == self.tree, made[0]
        self.compare()

    def compare(self) -> None:
        """What is open is as it should be."""
        assert self.opened is not None
        assert read_all(self.opened) == self.tree

    def gc(self) -> None:
        opened = self.opened
        assert opened is not None
        self.try_to(lambda: GcScheduler(opened).gc(GcSettings(grace_s=0), silent))
        self.compare()

    def prune(self) -> None:
        assert self.opened is not None and self.opened.publisher is not None
        publisher = self.opened.publisher

        def prune() -> None:
            with publisher.exclusively():
                publisher.pruner.prune(RetentionPolicy(last=2))

        self.try_to(prune)
        self.compare()

    def finish(self) -> None:
        assert self.opened is not None
        if self.try_to(self.opened.finish):
            assert self.published[str(self.newest)] == self.tree
        self.close()

    def kill(self) -> None:
        """The process dies, when all was synced."""
        assert self.opened is not None
        self.opened.filesystem.commit()
        self.close()

    def close(self) -> None:
        assert self.opened is not None
        self.local[self.host] = Local(dict(self.tree), self.newest, self.claims)
        self.opened.close()
        self.opened = None

    def take_over(self) -> None:
        """The other machine takes over, while this one still believes that it is the writer."""
        assert self.opened is not None and self.opened.publisher is not None
        old, before = self.opened, self.host
        old.filesystem.commit()
        self.local[before] = Local(dict(self.tree), self.newest, self.claims)
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
                raise AssertionError("a writer that was taken over has acknowledged something")
        assert self.archive.ids() == there
        old.close()
        self.local[before] = Local({**self.local[before].tree, "of nobody": str(self.number)}, None, -1)
        self.compare()

    # -- while it is not

    def on(self, host: str) -> "mock._patch[Callable[[], MachineId]]":
        """This process runs on that machine."""
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
        if not self.try_to(open_, note=False):
            open_()
        self.opened = opened[-1]
        found = read_all(self.opened)
        allowed = [published]
        if local is not None and local.head == newest and local.tree != published:
            # what only this machine has is gone on with, unless somebody else has been the writer since
            allowed = [local.tree] if local.claims == self.claims - 1 else [local.tree, published]
        elif local is not None and local.claims == -1:
            allowed = [published]
        assert found in allowed, f"there is {brief(found)}, and should be one of {list(map(brief, allowed))}"
        if local is not None and found != local.tree and local.tree not in self.published.values():
            assert self.set_aside() > aside, "what only this machine has is gone without a trace"
        self.tree = found
        self.note_published()  # who takes over publishes where it goes on from

    def set_aside(self) -> int:
        """How many states of this machine lie aside."""
        return len(list(self.volume.state(self.host).glob("set-aside/*")))

    def copy_state(self) -> None:
        """A backup of the state folder, while the volume is open."""
        assert self.opened is not None
        self.opened.filesystem.commit()
        copy = self.folder / f"copy{len(self.state_copies)}"
        shutil.copytree(self.volume.state(self.host), copy, ignore=shutil.ignore_patterns("*.sock"))
        self.state_copies.append((self.host, copy, Local(dict(self.tree), self.newest, self.claims)))

    def put_state_back(self) -> None:
        if self.state_copies:
            self.host, copy, local = self.chance.choice(self.state_copies)
            state = self.volume.state(self.host)
            if state.exists():
                shutil.rmtree(state)
            shutil.copytree(copy, state)
            self.local[self.host] = attrs.evolve(local, claims=0)
        self.open()

    def lose_machine(self) -> None:
        """The disk of the machine is gone."""
        shutil.rmtree(self.volume.state(self.host), ignore_errors=True)
        self.local.pop(self.host, None)
        self.open()

    def back_up(self) -> None:
        self.backups.append((copy_objects(self.store), dict(self.published)))

    def put_store_back(self) -> None:
        if self.backups:
            copy, published = self.chance.choice(self.backups)
            packs = {info.key for info in self.store.list("packs/")}
            # what was stored since and is in no snapshot would be lost with such a store: volume/test_old_store.py
            if max(published, default=None) != self.newest or packs <= copy.objects.keys():
                self.published = dict(published)
                restore_objects(self.store, copy)
                self.claims += 1  # in the backup another machine may hold the volume
        self.open()

    def copy_store(self) -> None:
        """The volume lives on elsewhere, too, and neither knows of the other."""
        place = self.folder / f"elsewhere{self.number}-{len(self.told)}"
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
        """An older snapshot becomes the head, where no machine has anything that was not published."""
        local = self.local.get(self.host)
        snapshot = self.chance.choice(self.archive.ids() or [None])  # type: ignore[list-item]
        if snapshot is None or local is None:
            return
        is_head = snapshot == self.newest
        try:
            with self.on(self.host):
                restore_head(self.volume.store_settings, self.volume.folders(self.host), snapshot, silent)
        except (StateConflict, EpochHeld) as error:
            self.told.append(f"  {type(error).__name__}: {error}")
            return
        self.claims += 1
        self.tree = local.tree if is_head else self.published[snapshot]
        self.note_published()
        self.local[self.host] = Local(dict(self.tree), self.newest, self.claims)

    def collect(self) -> None:
        def collect() -> None:
            with self.on(self.host):
                collect_unmounted(self.volume.store_settings, self.volume.folders(self.host), {"grace_s": 0}, silent)

        self.open()
        self.finish_well()
        self.try_to(collect)
        self.claims += 1
        self.local[self.host] = Local(dict(self.tree), self.newest, self.claims)

    def finish_well(self) -> None:
        assert self.opened is not None
        self.opened.finish()
        self.note_published()
        self.close()

    # -- at the end

    def check(self) -> None:
        """Every snapshot shows what it showed, and nothing is to be found wrong."""
        if self.opened is None:
            self.open()
        self.finish_well()
        for snapshot, tree in self.published.items():
            view = view_of(self.volume, snapshot, f"viewer of {snapshot}")
            found = read_all(view)
            view.close()
            assert found == tree, f"{snapshot} has {brief(found)}, had {brief(tree)}"
        clean(self.volume, self.host)


def brief(tree: Tree) -> dict[str, str]:
    """To tell of it."""
    return {name: text[:9] for name, text in sorted(tree.items())}


def clean(volume: Volume, host: str) -> None:
    told: list[Message] = []
    result = check_unmounted(volume.store_settings, volume.folders(host), {"verify_data": True}, told.append)
    # where a statement has failed, the records that could be read lie in a new database, and the old one aside
    assert result["codes"].keys() <= {"staging-put-aside"}, [one for one in told if "finding" in one]
