# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys that open an encrypted volume: listed, added, removed, changed, exported, and replaced.

All of it works on the store, whether the volume is mounted or not: a mount has what it needs in memory, and takes
nothing from the entries that are changed here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from cas3fs.config import SecretSettings, StoreSettings
from cas3fs.control import Message
from cas3fs.encryption.secret import EXPORT_TITLE, ExportedRoot, RecoveryKey, Secret
from cas3fs.errors import SecretMissing, UsageError
from cas3fs.metrics import Metrics
from cas3fs.volume.key_reader import Unlocked
from cas3fs.volume.keys import ShownKey, VolumeKeyStore, entry_to_change, no_such_key
from cas3fs.volume.loading import StoredVolume, open_volume
from cas3fs.volume.secret_source import KmsName, read_new_secret, read_secret

_LEAST_ID_DIGITS: Final = 4
_NOT_READ: Final[Mapping[str, None]] = dict.fromkeys(
    ("id", "method", "created", "note", "kms_key", "used_now", "foreign")
)
_WAYS: Final = "--new-passphrase-file, --new-key-file, --new-kms-key or --recovery"

AskForKept = Callable[[ShownKey, bool], SecretSettings | None]
"""Asks for the secret of a key that is to stay, or again after a wrong one; None: the key is to be removed."""


@attrs.frozen
class NewKey:
    """The secret that will open the volume once a key was added or changed."""

    secrets: SecretSettings = attrs.field(factory=SecretSettings)
    recovery: bool = False
    """A new recovery key, which is printed."""
    note: str | None = None


@contextmanager
def _open(settings: StoreSettings) -> Iterator[tuple[StoredVolume, VolumeKeyStore, Unlocked]]:
    """A volume, opened with a secret that the user has.

    Raises:
        UsageError: it is not encrypted.
        as `open_volume`.
    """
    with closing(open_volume(settings, Metrics())) as opened:
        if opened.keys is None:
            raise UsageError(f"the volume at {opened.store.url} is not encrypted, so it has no keys")
        yield opened, opened.keys.keys, opened.keys.unlocked


def list_keys(settings: StoreSettings) -> list[Message]:
    """The keys as JSON has them, the oldest first; of damaged ones, and those that opening never tries, the id alone.

    Raises:
        as `open_volume`, and as all functions here: UsageError for a volume that is not encrypted.
    """
    with _open(settings) as (_, keys, unlocked):
        shown = keys.shown(unlocked)
        known = {one.id for one in shown}
        others = [one for one in keys.entry_ids() if one not in known]
        return [_described(one) for one in shown] + [{**_NOT_READ, "id": one} for one in others]


def _described(one: ShownKey) -> Message:
    return {
        "id": one.id,
        "method": one.method,
        "created": one.created.isoformat(),
        "note": one.note,
        "kms_key": one.kms_key,
        "used_now": one.is_current,
        "foreign": one.is_foreign,
    }


def settings_from_export(settings: StoreSettings, file: Path) -> StoreSettings:
    """The settings with which a volume is opened by the text that `export_key` gave.

    Raises:
        UsageError: the file cannot be read, or has no such text; or another secret was given too.
    """
    secrets = attrs.evolve(settings.secrets, passphrase_file=file)
    if not isinstance(read_secret(secrets, ""), ExportedRoot):
        raise UsageError(f"{file} has no exported key, as `cas3fs key export` writes it")
    return attrs.evolve(settings, secrets=secrets)


def add_key(settings: StoreSettings, new: NewKey) -> Message:
    """Add a key; the reply has a new recovery key if that was asked for.

    Raises:
        UsageError: the volume has 32 keys; or the new secret is not valid, or missing.
        as `list_keys`.
    """
    with _open(settings) as (opened, keys, unlocked):
        secret = _new_secret(new, opened.store.url)
        return _made(keys.add(unlocked.root, secret, new.note or ""), secret)


def change_key(settings: StoreSettings, new: NewKey) -> Message:
    """Replace the key with which the volume was opened; raises as `add_key`."""
    with _open(settings) as (opened, keys, unlocked):
        replaced = entry_to_change(unlocked)  # before a secret is asked for
        secret = _new_secret(new, opened.store.url)
        made = keys.change(unlocked, secret, new.note)
        return _made(made, secret) | {"removed": replaced.id}


def _new_secret(new: NewKey, url: str) -> Secret | KmsName:
    if new.recovery:
        return RecoveryKey.random()
    try:
        return read_new_secret(new.secrets, f"new passphrase of {url}", {})
    except SecretMissing:
        raise UsageError(f"no new key was given, and there is no terminal to ask at: give {_WAYS}") from None


def _made(entry: Any, secret: Secret | KmsName) -> Message:
    shown: Message = {"id": entry.id, "method": entry.method}
    return shown | {"recovery_key": secret.printable()} if isinstance(secret, RecoveryKey) else shown


def remove_key(settings: StoreSettings, key_id: str) -> Message:
    """Remove a key, given by its id or the beginning of that.

    Raises:
        UsageError: there is no such key, or it is the last one.
        as `list_keys`.
    """
    with _open(settings) as (_, keys, unlocked):
        removed = _full_id(keys, key_id)
        keys.remove(unlocked, removed)
        return {"removed": removed, "left": len(keys.entry_ids())}


def _full_id(keys: VolumeKeyStore, key_id: str) -> str:
    found = [one for one in keys.entry_ids() if one.startswith(key_id)]
    if len(key_id) < _LEAST_ID_DIGITS or len(found) > 1:
        raise UsageError(f"{key_id!r} is not enough of an id: `cas3fs key list --json` shows whole ones")
    return found[0] if found else key_id


def export_key(settings: StoreSettings) -> Message:
    """The root of the volume, as a text to be printed: it opens the volume without any key entry; as `list_keys`."""
    with _open(settings) as (opened, keys, unlocked):
        told = {
            "url": opened.store.url,
            "uuid": str(opened.entry.uuid),
            "fingerprint": keys.fingerprint(unlocked.root),
            "key": ExportedRoot(unlocked.root).printable(),
        }
        return told | {"text": _export_text(told)}


def _export_text(told: Message) -> str:
    return f"""{EXPORT_TITLE} of an encrypted volume

volume       {told["url"]}
uuid         {told["uuid"]}
fingerprint  {told["fingerprint"]}

    {told["key"]}

Whoever has this key and can read the store can read the volume: no passphrase protects it. Keep it on paper.

It opens the volume wherever a passphrase is asked for, also when all of keys/ in the store is lost; then add a key:
cas3fs key add --from-export THIS-FILE {told["url"]}

It is void after `cas3fs key rotate --root`: then export the key again.
"""


def rotate_keys(settings: StoreSettings) -> Message:
    """Add a generation of the key, which seals all that is written from then on; raises as `list_keys`."""
    with _open(settings) as (opened, keys, unlocked):
        return _rotated(opened, keys.rotate(unlocked))


def _rotated(opened: StoredVolume, unlocked: Unlocked) -> Message:
    assert opened.keys is not None
    opened.note_keys(unlocked)
    return {"generation": unlocked.keyring.current.number, "fingerprint": opened.keys.fingerprint}


def replace_root(
    settings: StoreSettings, kept: Sequence[SecretSettings], dropped: Sequence[str], ask: AskForKept | None = None
) -> Message:
    """Replace the root, so that nothing that opened the old one opens what is written from then on.

    Args:
        settings: the volume; the key with which it is opened stays, unless it is in `dropped`.
        kept: where the secrets of other keys that are to stay come from.
        dropped: the ids of keys that are to go, or beginnings of ids.
        ask: asks about each other key; None: nobody can be asked.

    Raises:
        UsageError: it was not said of each key whether it stays; or a secret belongs to none.
        KeysError: another process changes the keys at the same time.
        as `list_keys`.
    """
    with _open(settings) as (opened, keys, unlocked):
        chosen = _KeptKeys(keys, unlocked, settings.secrets, [_full_id(keys, one) for one in dropped])
        for one in kept:
            chosen.keep(one)
        chosen.decide_rest(ask)
        replaced = keys.replace_root(unlocked, chosen.secrets)
        return _rotated(opened, replaced) | {"kept": chosen.kept, "removed": chosen.removed}


class _KeptKeys:
    """Which keys stay when the root is replaced, with the secret and note of each."""

    def __init__(self, keys: VolumeKeyStore, unlocked: Unlocked, own: SecretSettings, dropped: Sequence[str]) -> None:
        self._keys = keys
        self._root = unlocked.root
        self._all = keys.entry_ids()
        self._open = {one.id: one for one in keys.shown(unlocked) if not one.is_foreign and one.id not in dropped}
        self.secrets: list[tuple[Secret | KmsName, str]] = []
        self.kept: list[str] = []
        for unknown in set(dropped) - set(self._all):
            raise no_such_key(unknown)
        if unlocked.entry is not None and unlocked.entry.id in self._open:
            self._take(self._open[unlocked.entry.id], read_secret(own, ""))

    @property
    def removed(self) -> list[str]:
        return [one for one in self._all if one not in self.kept]

    def keep(self, settings: SecretSettings) -> None:
        """Keep the key that a secret opens.

        Raises:
            UsageError: there is none, or it was kept already.
        """
        secret = read_secret(settings, "", {})
        for one in list(self._open.values()):
            if self._keys.opens(one.id, secret, self._root):
                self._take(one, secret)
                return
        raise UsageError(
            f"{_named(settings)} opens no key of the volume that is to be kept; `cas3fs key add` adds one afterwards"
        )

    def decide_rest(self, ask: AskForKept | None) -> None:
        """Decide on the keys of which nothing was said.

        Raises:
            UsageError: nobody can be asked.
        """
        if ask is None and self._open:
            left = ", ".join(f"{one.id} ({one.method})" for one in self._open.values())
            raise UsageError(
                f"these keys would not open the volume any more: {left}: give the secret of each that is to stay with "
                "--keep-passphrase-file, --keep-key-file or --keep-kms-key, and --drop ID for the others"
            )
        for one in list(self._open.values()):
            assert ask is not None
            self._ask_about(one, ask)

    def _ask_about(self, one: ShownKey, ask: AskForKept) -> None:
        is_again = False
        while (settings := ask(one, is_again)) is not None:
            secret = read_secret(settings, "", {})
            if self._keys.opens(one.id, secret, self._root):
                self._take(one, secret)
                return
            is_again = True

    def _take(self, one: ShownKey, secret: Secret | KmsName) -> None:
        del self._open[one.id]
        self.secrets.append((secret, one.note))
        self.kept.append(one.id)


def _named(settings: SecretSettings) -> str:
    return str(settings.passphrase_file or settings.key_file or settings.kms_key)
