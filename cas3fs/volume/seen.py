# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine has seen of an encrypted volume, and whether the store still has it.

Whoever controls a store can put an older state of it back, or another volume in its place, and each object of that is
sealed as it should be. Only a machine that saw newer objects can notice it. So the state directory has a record for
each location (``seen/<hash of the location>.json``), which does not depend on anything in the store::

    {"uuid": "...", "fingerprint": "<of the root>", "keyring": 3, "entry": "<id of a key entry>",
     "objects": {"epoch": ["00000007", "<digest>"], "snapshot": [...], "policy": [...], "fork": [...]}}

``entry`` is the key entry that opened the volume last, and is tried first (an empty text where there was none). Of each
kind the record names the greatest object that was seen, with the BLAKE3 of its plain bytes. Where the volume is opened,
by whatever verb, these are read by their names, and what sorts after them is listed; it is an error if

- the volume there is not encrypted, or has another uuid;
- the root is another one: the fingerprint of a root that was replaced on purpose can be given as the expected one;
- the keyring has a smaller number;
- one of these objects has other bytes;
- one of them is gone. A snapshot may be gone if a later one is there: the retention policy deletes them.

An object that cannot be read proves nothing here: whoever needs it reports the damage. Nor does a claim that a repair
wrote in place of a damaged one: whoever has no key cannot make one. As the names of objects with
greater numbers prove nothing either, an object is remembered only after it was opened with the volume's keys.

A store may also show different states to different requests. So what was seen holds after the check too: no snapshot
before the newest one that was seen is the head, whatever is listed, and a claim has a greater number than the epochs
that were seen.

When it is written: when the volume is opened and the store has something newer (two syncs); after a claim and after
each snapshot (one: after a loss of power the record is complete, and may be the one before); at the end of a mount. A
process that dies between a change of the store and the record leaves a record that demands less, never one that demands
what was not there. Several processes may write it: each merges what it saw into the file under an exclusive `flock`,
which is held while the file is replaced, and never during a request.

There is no record of plain volumes: nobody can tell an older state that was put back by its owner from another one.
"""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import attrs

from cas3fs.config import StoreSettings
from cas3fs.durable import replace_file
from cas3fs.entries.entry import Entry
from cas3fs.entries.kinds import EpochEntry, ForkEntry, PolicyEntry, SnapshotEntry, VolumeEntry
from cas3fs.entries.shelf import Shelf
from cas3fs.epochs.epoch_entries import is_replacement
from cas3fs.errors import EntryError, ObjectArchived, ObjectMissing, StateConflict, StoreRolledBack
from cas3fs.objectstores import ObjectStore
from cas3fs.snapshots.manifests import check_snapshot_id
from cas3fs.volume.keys import UnlockedVolume
from cas3fs.volume.location import location_of

FOLDER_NAME: Final = "seen"
EPOCH, SNAPSHOT, POLICY, FORK = "epoch", "snapshot", "policy", "fork"
_KINDS: Final[Mapping[str, type[Entry]]] = {
    EPOCH: EpochEntry,
    SNAPSHOT: SnapshotEntry,
    POLICY: PolicyEntry,
    FORK: ForkEntry,
}
_MOST_TRIED: Final = 4
"""So many of the newest objects of a kind are read in search of one that can be read."""
_ACCEPT: Final = "if that was done on purpose, --accept-rollback accepts it"

_log = logging.getLogger(__name__)


class SeenObject(NamedTuple):
    """An object that was opened with the volume's keys."""

    id: str
    digest: str
    """BLAKE3 of its plain bytes, in hex digits."""

    @property
    def number(self) -> tuple[int, ...]:
        """What orders the objects of a kind; an id may end with random digits, which do not count."""
        return tuple(int(part) for part in self.id.split("-") if len(part) < 32)


@attrs.frozen
class SeenVolume:
    """What was seen of a volume."""

    uuid: str
    """As `volume` has it."""
    fingerprint: str
    keyring: int
    objects: Mapping[str, SeenObject]
    """The greatest of each kind, by its name."""
    entry: str = ""
    """The id of the key entry that opened it last."""

    def merged(self, newer: "SeenVolume") -> "SeenVolume":
        """What was seen by both; `newer` may come from a process that knows an older root."""
        objects = dict(self.objects)
        for kind, one in newer.objects.items():
            if kind not in objects or one.number > objects[kind].number:
                objects[kind] = one
        keys = newer if newer.keyring >= self.keyring else self  # each new root comes with a greater number
        return attrs.evolve(keys, objects=objects)

    def encode(self) -> str:
        """The text of the file."""
        return json.dumps(attrs.asdict(self, recurse=False))  # a named tuple is a list there

    @classmethod
    def decode(cls, text: str) -> "SeenVolume":
        """What a file holds; raises ValueError, KeyError or TypeError if it is damaged."""
        found: dict[str, Any] = json.loads(text)
        objects = {kind: SeenObject(*map(str, one)) for kind, one in dict(found["objects"]).items()}
        for one in objects.values():
            assert one.number  # or ValueError
        entry = str(found.get("entry", ""))
        return cls(str(found["uuid"]), str(found["fingerprint"]), int(found["keyring"]), objects, entry)


class SeenFile:
    """The record of one location.

    Args:
        path: of the file; its folder is made when it is written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> SeenVolume | None:
        """What was seen; None if nothing was.

        Raises:
            StateConflict: the file is damaged, or cannot be read.
        """
        try:
            return SeenVolume.decode(self._path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, AssertionError) as error:
            raise StateConflict(
                f"{self._path}, which records what this machine has seen of the volume, cannot be read ({error}); "
                "--accept-rollback begins a new one with what the store has now"
            ) from error

    def change(
        self,
        change: Callable[[SeenVolume | None], SeenVolume],
        *,
        durable_name: bool = True,
        failure_level: int = logging.WARNING,
    ) -> None:
        """Replace the record.

        Args:
            change: makes the new record of the old one; it is called under the lock.
            durable_name: whether it is certain on return that a loss of power does not bring the old record back.
            failure_level: at which a failure of the local disk is logged: the record then demands less than it could.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                old = None
                with suppress(StateConflict):
                    old = self.read()
                new = change(old)
                if new != old:
                    replace_file(self._path, new.encode(), sync_name=durable_name or old is None)
        except OSError as error:
            text = "%s cannot be written, so what was seen of the volume is not recorded: %s"
            _log.log(failure_level, text, self._path, error)

    def remove(self) -> None:
        """Remove the record, if there is one; a failure is logged."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be removed: %s", self._path, error)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def record_new_volume(settings: StoreSettings, uuid: str, fingerprint: str | None) -> None:
    """Record that this machine has made a volume; `fingerprint` is None where it is not encrypted.

    Whatever was there before is forgotten: somebody has removed it, since a volume is made in an empty place only.
    """
    file = _file_of(settings)
    if file is None:
        return
    if fingerprint is None:
        file.remove()
    else:
        made = SeenVolume(uuid, fingerprint, 1, {})
        file.change(lambda old: made)


def _file_of(settings: StoreSettings) -> SeenFile | None:
    folder = settings.expected.state_dir
    return None if folder is None else SeenFile(folder / FOLDER_NAME / f"{location_of(settings).digest}.json")


class _Found(NamedTuple):
    """What the store has of one kind."""

    seen: str | None
    """The digest of the greatest object that was seen; None if it is gone, empty if it cannot be read."""
    newer: SeenObject | None
    """The newest object after it."""


class SeenState:
    """What was seen of the volume at one location, in the life of a process that has it open.

    Thread-safe: the file is changed under its lock.

    Args:
        settings: of the store, with what is expected.

    Raises:
        StateConflict: the record is damaged.
        VolumeFormatError: what is expected is not the id of a snapshot.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._expected = settings.expected
        if self._expected.snapshot is not None:
            check_snapshot_id(self._expected.snapshot)
        self._url = location_of(settings).url
        self._file = _file_of(settings)
        self._uuid = ""
        self._conditional_writes = True
        self._keys: UnlockedVolume | None = None
        self._shelf: Shelf | None = None

    @property
    def fingerprint(self) -> str | None:
        """That of the root of the volume; None where it is not encrypted."""
        return None if self._keys is None else self._keys.fingerprint

    def _read(self) -> SeenVolume | None:
        if self._file is None:
            return None
        try:
            return self._file.read()
        except StateConflict:
            if self._expected.accept_rollback:
                return None
            raise

    # Checking

    def check_entry(self, entry: VolumeEntry) -> str:
        """Check the volume's entry, before a secret is asked for.

        Returns:
            the id of the key entry that opened the volume last on this machine; empty where none is known.

        Raises:
            StoreRolledBack: it is another volume.
        """
        self._uuid, self._conditional_writes = str(entry.uuid), entry.conditional_writes
        if entry.cipher is None and self._expected.fingerprint is not None:
            raise StoreRolledBack(
                f"the volume at {self._url} is not encrypted, so it has no fingerprint: it is not the one expected"
            )
        seen = self._read()
        if seen is None:
            return ""
        if entry.cipher is None:
            self._refuse(f"{self._url} has a volume that is not encrypted, and this machine has seen an encrypted one")
            self._forget()
        elif seen.uuid != self._uuid:
            self._refuse(
                f"{self._url} has another volume than this machine has seen there: its uuid is {self._uuid}, and was "
                f"{seen.uuid}"
            )
        return seen.entry

    def _forget(self) -> None:
        if self._file is not None:
            self._file.remove()

    def open(self, store: ObjectStore, keys: UnlockedVolume | None, *, claims: bool = False) -> None:
        """Check what an opened volume has, and remember what is new.

        Args:
            store: of the volume, with plain bytes.
            keys: None where it is not encrypted.
            claims: whether the volume will be claimed. Then the claim is remembered too, and only a failure to do that
                is worth a warning: where the state directory cannot be used at all, there is no claim, but an error.

        Raises:
            StoreRolledBack: the store has less than this machine has seen, or than was expected.
            StoreError: the store failed.
        """
        self._shelf, self._keys = Shelf(store), keys
        wanted = (self._expected.fingerprint or "").lower()
        if keys is not None and wanted not in ("", keys.fingerprint):
            raise StoreRolledBack(
                f"the volume at {self._url} has the fingerprint {keys.fingerprint}, and {wanted} was "
                "expected: it is another volume, or its root was replaced since"
            )
        self.look(logging.DEBUG if claims else logging.WARNING)

    def look(self, failure_level: int = logging.WARNING) -> None:
        """Compare what the store has with what was seen, and remember what is newer; raises as `open`.

        Args:
            failure_level: as of `SeenFile.change`.
        """
        is_recorded = self._file is not None and self._keys is not None
        if not is_recorded and self._expected.snapshot is None:
            return
        seen = self._read() if is_recorded else None
        if seen is not None and seen.uuid != self._uuid:
            seen = None  # it was accepted
        found = self._find(seen)
        if seen is not None and (problem := self._problem(seen, found)):
            self._refuse(problem)
            seen, found = None, self._find(None)
        self._check_expected_snapshot(seen, found[SNAPSHOT])
        if self._file is not None and self._keys is not None:
            present = self._present({kind: one.newer for kind, one in found.items() if one.newer is not None})
            self._file.change(
                lambda old: present if seen is None or old is None else old.merged(present), failure_level=failure_level
            )

    def _refuse(self, problem: str) -> None:
        """Raise StoreRolledBack, or log what is accepted."""
        if not self._expected.accept_rollback:
            raise StoreRolledBack(f"{problem}; {_ACCEPT}")
        _log.warning("accepted: %s", problem)

    def _find(self, seen: SeenVolume | None) -> dict[str, _Found]:
        assert self._shelf is not None
        shelf = self._shelf

        def find(kind: str) -> _Found:
            one = None if seen is None else seen.objects.get(kind)
            now = None if one is None else _digest_now(shelf, _KINDS[kind], one.id)
            if kind == EPOCH and not self._conditional_writes:
                return _Found(now, None)  # others may withdraw their claims: only our own are remembered
            return _Found(now, _newest(shelf, _KINDS[kind], "" if one is None else one.id))

        with ThreadPoolExecutor(len(_KINDS), thread_name_prefix="seen") as pool:
            return dict(zip(_KINDS, pool.map(find, _KINDS), strict=True))

    def _problem(self, seen: SeenVolume, found: Mapping[str, _Found]) -> str:
        """What the store lacks of what was seen; empty if it lacks nothing."""
        assert self._keys is not None
        if seen.fingerprint != self._keys.fingerprint and self._expected.fingerprint is None:
            return (
                f"the root of {self._url} was replaced: its fingerprint is {self._keys.fingerprint}, and was "
                f"{seen.fingerprint}; compare it with what `cas3fs key rotate --root` has printed"
            )
        if self._keys.sequence < seen.keyring:
            return (
                f"{self._url} is in an older state than this machine has seen: its keyring has the number "
                f"{self._keys.sequence}, and had {seen.keyring}"
            )
        for kind, one in seen.objects.items():
            if kind in found and (problem := _problem_of(kind, one, found[kind])):
                return f"{self._url} is in an older or another state than this machine has seen: {problem}"
        return ""

    def _check_expected_snapshot(self, seen: SeenVolume | None, found: _Found) -> None:
        if self._expected.snapshot is None:
            return
        newest = found.newer if seen is None else found.newer or seen.objects.get(SNAPSHOT)
        if newest is None or newest.number < SeenObject(self._expected.snapshot, "").number:
            there = "it has none" if newest is None else f"its newest is {newest.id}"
            raise StoreRolledBack(
                f"{self._url} lacks snapshot {self._expected.snapshot} and every later one: {there}; it is in an older "
                "state than was expected"
            )

    # Remembering

    def note(self, kind: str, object_id: str, digest: str) -> None:
        """Remember an object that this process has stored."""
        self._remember({kind: SeenObject(object_id, digest)})

    def note_epoch(self, epoch_id: str) -> None:
        """Remember the epoch that this process has claimed.

        Raises:
            StoreRolledBack: an epoch with that number or a greater one was seen; the store hid it from the claim.
            StoreError: as `Shelf.load`.
        """
        seen = self._seen_object(EPOCH)
        if self._file is None or self._keys is None or self._shelf is None:
            return
        if seen is not None and seen.number >= SeenObject(epoch_id, "").number:
            self._refuse(
                f"{self._url} let epoch {epoch_id} be claimed, and this machine has seen epoch {seen.id} there"
            )
        self.note(EPOCH, epoch_id, self._shelf.load_with_digest(EpochEntry, epoch_id)[1])

    @property
    def newest_snapshot(self) -> str | None:
        """The newest snapshot that was seen: whatever the store lists, no older one is the newest."""
        seen = self._seen_object(SNAPSHOT)
        return None if seen is None else seen.id

    def _seen_object(self, kind: str) -> SeenObject | None:
        seen = None if self._keys is None else self._read()
        return None if seen is None else seen.objects.get(kind)

    def note_keys(self) -> None:
        """Remember the root and the keyring that this process works with, which it may have replaced."""
        self._remember({}, durable_name=True)

    def _remember(self, objects: Mapping[str, SeenObject], *, durable_name: bool = False) -> None:
        if self._file is not None and self._keys is not None:
            present = self._present(objects)
            self._file.change(
                lambda old: present if old is None or old.uuid != present.uuid else old.merged(present),
                durable_name=durable_name,
            )

    def _present(self, objects: Mapping[str, SeenObject]) -> SeenVolume:
        assert self._keys is not None
        return SeenVolume(self._uuid, self._keys.fingerprint, self._keys.sequence, objects, self._keys.entry_id)


def _problem_of(kind: str, seen: SeenObject, found: _Found) -> str:
    if found.seen is None:
        if kind == SNAPSHOT and found.newer is not None:
            return ""
        newest = f", and {found.newer.id} is there" if found.newer is not None else ", and nothing later is there"
        return f"{kind} {seen.id} is gone{newest if kind == SNAPSHOT else ''}"
    return f"{kind} {seen.id} has other contents" if found.seen not in ("", seen.digest) else ""


def _digest_now(shelf: Shelf, kind: type[Entry], entry_id: str) -> str | None:
    """The digest of an entry; None if it is missing, empty if it cannot be read or was written by a repair."""
    try:
        entry, digest = shelf.load_with_digest(kind, entry_id)
    except ObjectMissing:
        return None
    except (EntryError, ObjectArchived):
        return ""
    return "" if isinstance(entry, EpochEntry) and is_replacement(entry) else digest


def _newest(shelf: Shelf, kind: type[Entry], after: str) -> SeenObject | None:
    """The greatest entry after an id that can be read."""
    listed = []
    for one in shelf.list_entries(kind, start_after=after):
        with suppress(ValueError):  # no name of ours
            listed.append((SeenObject(one.id, "").number, one.id))
    for _, entry_id in sorted(listed, reverse=True)[:_MOST_TRIED]:
        if digest := _digest_now(shelf, kind, entry_id):
            return SeenObject(entry_id, digest)
    return None
