# SPDX-License-Identifier: GPL-3.0-or-later
"""An encrypted volume costs the requests of a plain one, a few more when it is opened, and one with each snapshot."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Final

from cas3fs.commands.mkfs import create_volume
from cas3fs.config import LocalFolders, SecretSettings, StoreSettings, VolumeSettings, WriterSettings
from cas3fs.filesystem import ROOT
from cas3fs.maintenance.gc.request import GcSettings
from cas3fs.units import KIB, MIB
from cas3fs.volume.gc_scheduler import GcScheduler
from cas3fs.volume.opening import OpenVolume, open_view, open_writer
from tests.encrypted import write_key_file
from tests.maintenance.memory_volume import noise
from tests.volume.conftest import publish, read_all, write

FILES: Final = 24
FOR_KEYS, FOR_STATE = 5, 6
"""A listing of keys, a key entry, the keyring, and whether there is a newer one, again after the claim; and what shows
whether the store is in an older state than this machine has seen: listings of four kinds of entries, and the newest of
two."""
PUBLICATIONS: Final = {"publishes": 1, "reads": 1, "publishes again": 2, "collects garbage": 4, "ends": 5}
"""How many there were since a volume was opened; each lists the keyrings once."""
SETTINGS: Final = WriterSettings(cache_size_bytes=0, memory_cache_bytes=0)
VIEW: Final = WriterSettings(cache_size_bytes=0, memory_cache_bytes=0, read_only=True)


class Counts:
    """The requests of each step of the life of a volume."""

    def __init__(self, folder: Path, *, encrypt: bool) -> None:
        self.folder = folder
        self.requests: Counter[str] = Counter()
        (folder / "v").mkdir(parents=True)
        write_key_file(folder / "key")
        secrets = SecretSettings(key_file=folder / "key") if encrypt else SecretSettings()
        self.store = StoreSettings((folder / "v").as_uri(), secrets=secrets)
        made = VolumeSettings("fixed", 256 * KIB, MIB, "none", encrypt=encrypt)
        create_volume(self.store, made)

    def live(self) -> None:
        """Write, publish, read, collect garbage, and read on another machine; then open it once more."""
        for host in ("first", "second"):
            opened = open_writer(self.store, SETTINGS, LocalFolders(self.folder / host, self.folder / f"{host}-cache"))
            with closing(opened):
                opened.start(0)
                self.note(f"{host} opens", opened)
                for number in range(FILES):
                    write(opened, f"{host}{number}", noise(number + 100 * len(host), 300 * KIB).hex())
                publish(opened)
                self.note(f"{host} publishes", opened)
                read_all(opened)
                self.note(f"{host} reads", opened)
                for number in range(FILES):
                    if number % 3:
                        opened.filesystem.unlink(ROOT, f"{host}{number}".encode())
                publish(opened)
                self.note(f"{host} publishes again", opened)
                GcScheduler(opened).collect(GcSettings(grace_s=0, min_live=0.9), lambda _: None)
                self.note(f"{host} collects garbage", opened)
                opened.finish()
                self.note(f"{host} ends", opened)
        view = open_view(self.store, VIEW, LocalFolders(self.folder / "viewer", self.folder / "viewer-cache"))
        with closing(view):
            self.note("a view opens", view)
            view.start(0)
            read_all(view)
            self.note("a view reads", view)

    def note(self, step: str, opened: OpenVolume) -> None:
        """Record how many requests were made since the volume was opened."""
        self.requests[step] = int(opened.metrics.snapshot()["store.requests"])


def test_encryption_costs_requests_at_opening_and_at_snapshots(tmp_path: Path) -> None:
    plain, encrypted = (Counts(tmp_path / name, encrypt=name == "encrypted") for name in ("plain", "encrypted"))
    plain.live()
    encrypted.live()
    more = {step: count - plain.requests[step] for step, count in encrypted.requests.items()}
    for who in ("first", "second", "a view"):
        steps = {
            step: count - PUBLICATIONS.get(step.removeprefix(f"{who} "), 0) * (who != "a view")
            for step, count in more.items()
            if step.startswith(who)
        }
        assert len(set(steps.values())) == 1, steps
        assert 0 < steps[f"{who} opens"] <= FOR_KEYS + FOR_STATE
    assert plain.requests["second collects garbage"] > 2 * FILES
