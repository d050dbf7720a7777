# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs key``: list, add, remove, change, export and replace the keys that open an encrypted volume."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import click

from cas3fs.cli.common import (
    VolumeArgument,
    ask_new_passphrase,
    ask_passphrase,
    has_terminal,
    json_option,
    print_json,
    store_settings,
    volume_argument,
    volume_url,
)
from cas3fs.config import SecretSettings, StoreSettings
from cas3fs.control import Message
from cas3fs.errors import UsageError
from cas3fs.units import format_time

if TYPE_CHECKING:
    from cas3fs.commands.key import NewKey
    from cas3fs.volume.keys import ShownKey

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_SHOWN_DIGITS: Final = 12
_MOUNTS: Final = "a mount that is running uses it from its next snapshot on"
_MOUNTS_OF_NEW_ROOT: Final = (
    "mount the volume again wherever it is mounted: a mount that is running writes with the old keys; other machines "
    "that have seen the volume have to be told the new fingerprint once: `cas3fs mount --expect-volume`"
)
_OLD_DATA: Final = (
    "what is in the store already stays as it is: whoever kept the old keys can read it, there or in a copy, until "
    "`cas3fs gc --reencrypt` has encrypted it anew and the old objects are gone"
)


@click.group()
def key() -> None:
    """List, add, remove, change, export and replace the keys of an encrypted volume.

    A key is a passphrase, a file, a recovery key, or a key of AWS KMS; each opens the volume by itself. All commands
    need one of them, also where the volume is mounted.
    """


def _new_key_options(command: _Command) -> _Command:
    """What a new key is, as one value: a `NewKey`."""

    def wrapped(
        *args: Any,
        new_passphrase_file: Path | None,
        new_key_file: Path | None,
        new_kms_key: str | None,
        recovery: bool,
        note: str | None,
        **rest: Any,
    ) -> Any:
        from cas3fs.commands.key import NewKey

        if sum(map(bool, (new_passphrase_file, new_key_file, new_kms_key, recovery))) > 1:
            raise UsageError("--new-passphrase-file, --new-key-file, --new-kms-key and --recovery exclude each other")
        ask = ask_new_passphrase if has_terminal() else None
        secrets = SecretSettings(new_passphrase_file, new_key_file, new_kms_key, ask, ask)
        return command(*args, new=NewKey(secrets, recovery, note), **rest)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option("--note", metavar="TEXT", help="What the key is, shown by `key list`; it is stored encrypted."),
        click.option("--recovery", is_flag=True, help="Make a recovery key, and print it, this once."),
        click.option("--new-kms-key", metavar="ARN", help="The new key is one of AWS KMS."),
        click.option("--new-key-file", type=_FILE, help="The new key is a file, such as one of 32 random bytes."),
        click.option("--new-passphrase-file", type=_FILE, help="File with the new passphrase, instead of asking."),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def _settings(volume: VolumeArgument) -> StoreSettings:
    """The store of a volume; a mount is asked for nothing."""
    if "://" in volume.named:
        return store_settings(volume_url(volume.named), volume.endpoint_url)
    return volume.find().store


@key.command("list")
@volume_argument
@json_option
def list_(volume: VolumeArgument, *, as_json: bool) -> None:
    """List the keys that open VOLUME, the oldest first.

    Example: cas3fs key list s3://bucket/volume
    """
    from cas3fs.commands.key import list_keys

    found = list_keys(_settings(volume))
    if as_json:
        print_json(found)
        return
    click.echo(f"{'id':<{_SHOWN_DIGITS}}  {'since':<24}  {'kind':<10}  note")
    for one in found:
        click.echo(_line(one))


def _line(one: Message) -> str:
    if one["method"] is None:
        return f"{one['id']}  damaged, or one too many to be tried"
    remarks = [one["note"], one["kms_key"] or ""]
    remarks += ["(used now)"] if one["used_now"] else []
    remarks += ["(not of this volume's root: remove it)"] if one["foreign"] else []
    columns = f"{one['id'][:_SHOWN_DIGITS]:<{_SHOWN_DIGITS}}  {format_time(one['created']):<24}  {one['method']:<10}"
    return f"{columns}  {' '.join(filter(None, remarks))}".rstrip()


@key.command()
@volume_argument
@click.option("--from-export", type=_FILE, help="Open the volume with the text that `key export` wrote to this file.")
@_new_key_options
@json_option
def add(volume: VolumeArgument, *, from_export: Path | None, new: "NewKey", as_json: bool) -> None:
    """Add a key to VOLUME; without an option, a passphrase that is asked for twice.

    Example: cas3fs key add --recovery --note safe s3://bucket/volume
    """
    from cas3fs.commands.key import add_key, settings_from_export

    settings = _settings(volume)
    if from_export is not None:
        settings = settings_from_export(settings, from_export)
    _report_new(add_key(settings, new), as_json)


@key.command()
@volume_argument
@_new_key_options
@json_option
def change(volume: VolumeArgument, *, new: "NewKey", as_json: bool) -> None:
    """Replace the key with which VOLUME is opened now, such as a passphrase by another one.

    Whoever knows the old key and kept a copy of the store can still read it: see `key rotate --root`.

    Example: cas3fs key change s3://bucket/volume
    """
    from cas3fs.commands.key import change_key

    _report_new(change_key(_settings(volume), new), as_json)


def _report_new(made: Message, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    if "recovery_key" in made:
        click.echo(f"\n    {made['recovery_key']}\n")
        click.echo(
            "Keep this recovery key on paper: it is not shown again. It opens the volume where a passphrase would."
        )
    replaced = f" in place of {made['removed'][:_SHOWN_DIGITS]}" if "removed" in made else ""
    click.echo(f"key {made['id'][:_SHOWN_DIGITS]} ({made['method']}) opens the volume from now on{replaced}")


@key.command()
@volume_argument
@click.argument("key_id", metavar="ID")
@json_option
def remove(volume: VolumeArgument, *, key_id: str, as_json: bool) -> None:
    """Remove the key ID from VOLUME, which the beginning of its id names; the last one stays.

    Whoever knows that key and kept a copy of the store can still read it: see `key rotate --root`.

    Example: cas3fs key remove s3://bucket/volume 3f9c2b11
    """
    from cas3fs.commands.key import remove_key

    done = remove_key(_settings(volume), key_id)
    if as_json:
        print_json(done)
    else:
        click.echo(f"key {done['removed'][:_SHOWN_DIGITS]} is removed; {done['left']} left")


@key.command()
@volume_argument
@json_option
def export(volume: VolumeArgument, *, as_json: bool) -> None:
    """Print the root key of VOLUME, which opens it even if all of keys/ in the store is lost.

    It is protected by nothing but the place where you keep it. `key rotate --root` makes it void.

    Example: cas3fs key export s3://bucket/volume | lpr
    """
    from cas3fs.commands.key import export_key

    told = export_key(_settings(volume))
    if as_json:
        print_json({name: value for name, value in told.items() if name != "text"})
    else:
        click.echo(told["text"], nl=False)


@key.command()
@volume_argument
@click.option("--root", is_flag=True, help="Replace the root too, so that removed keys open nothing new.")
@click.option("--keep-passphrase-file", "files", type=_FILE, multiple=True, help="With --root: passphrase that stays.")
@click.option("--keep-key-file", "key_files", type=_FILE, multiple=True, help="With --root: key file that stays.")
@click.option("--keep-kms-key", "kms_keys", metavar="ARN", multiple=True, help="With --root: key of KMS that stays.")
@click.option("--drop", "dropped", metavar="ID", multiple=True, help="With --root: a key that does not stay.")
@json_option
def rotate(
    volume: VolumeArgument,
    *,
    root: bool,
    files: tuple[Path, ...],
    key_files: tuple[Path, ...],
    kms_keys: tuple[str, ...],
    dropped: tuple[str, ...],
    as_json: bool,
) -> None:
    """Encrypt what is written to VOLUME from now on with a new key; keys that open the volume stay.

    With --root, a key that was removed or dropped opens nothing new, even for somebody who kept a copy of the store.
    The secret of each key that stays is needed: give it, or be asked for it. The key that is used now stays.

    Example: cas3fs key rotate --root --drop 3f9c2b11 s3://bucket/volume
    """
    from cas3fs.commands.key import replace_root, rotate_keys

    settings = _settings(volume)
    kept = [
        *(SecretSettings(passphrase_file=one) for one in files),
        *(SecretSettings(key_file=one) for one in key_files),
        *(SecretSettings(kms_key=one) for one in kms_keys),
    ]
    if not root and (kept or dropped):
        raise UsageError("--keep-passphrase-file, --keep-key-file, --keep-kms-key and --drop go with --root")
    done = replace_root(settings, kept, dropped, _ask_for_kept if has_terminal() else None) if root else None
    told = rotate_keys(settings) if done is None else done
    if as_json:
        print_json(told)
        return
    if done is not None:
        click.echo(
            f"the root was replaced; fingerprint {done['fingerprint']}; export the key again if you have exported it"
        )
        click.echo(f"keys that stay: {len(done['kept'])}; removed: {', '.join(_shortened(done['removed'])) or 'none'}")
        click.echo(_MOUNTS_OF_NEW_ROOT)
        click.echo(f"generation {told['generation']} of the key encrypts what is written from then on")
    else:
        click.echo(f"generation {told['generation']} of the key encrypts what is written from now on; {_MOUNTS}")
    click.echo(_OLD_DATA)


def _shortened(ids: list[str]) -> list[str]:
    return [one[:_SHOWN_DIGITS] for one in ids]


def _ask_for_kept(one: "ShownKey", is_again: bool) -> SecretSettings | None:
    """Ask for the secret of a key that is to stay when the root is replaced."""
    if is_again:
        click.echo("cas3fs: that does not open this key", err=True)
    name = f"{one.id[:_SHOWN_DIGITS]} ({one.method}{', ' if one.note else ''}{one.note})"
    if one.method == "kms":
        stays = not is_again and click.confirm(f"Keep key {name}?", err=True)
        return SecretSettings(kms_key=one.kms_key) if stays else None
    if one.method == "key-file":
        path = click.prompt(f"file of key {name}, empty to remove it", default="", show_default=False, err=True)
        return SecretSettings(key_file=Path(path)) if path else None
    typed = ask_passphrase(f"secret of key {name}, empty to remove it")
    return attrs.evolve(SecretSettings(), ask=lambda question: typed) if typed else None
