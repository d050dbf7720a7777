# SPDX-License-Identifier: GPL-3.0-or-later
"""``cas3fs mkfs``: create a volume."""

import sys
from typing import Final

import click

from cas3fs.blocks.chunkers import CHUNKERS
from cas3fs.cli.common import (
    Size,
    json_option,
    log_to_stderr,
    normal_url,
    print_json,
    store_options,
    store_settings,
    verbose_option,
)
from cas3fs.config import SecretSettings, VolumeSettings
from cas3fs.errors import UsageError

_DEFAULTS: Final = VolumeSettings()


@click.command()
@click.argument("volume")
@click.option(
    "--chunker",
    type=click.Choice(list(CHUNKERS)),
    default=_DEFAULTS.chunker,
    show_default=True,
    help="How files are cut into blocks; fixed is for disk images and databases.",
)
@click.option(
    "--block-size", type=Size(), default=_DEFAULTS.block_size_bytes, help="Average size of a block.  [default: 1MiB]"
)
@click.option(
    "--pack-size",
    type=Size(),
    default=_DEFAULTS.pack_size_bytes,
    help="Size of a pack, the object that holds blocks.  [default: 16MiB]",
)
@click.option("--compression", default=_DEFAULTS.compression, show_default=True, help="zstd:LEVEL or none.")
@click.option("--label", default="", help="A name for the volume, shown by stats.")
@click.option(
    "--allow-unfenced",
    is_flag=True,
    help="Accept a store without conditional writes, which cannot keep two writers apart.",
)
@click.option(
    "--encrypt/--no-encrypt",
    default=None,
    help="Encrypt the volume, with a passphrase or a key; this cannot be changed later.",
)
@click.option("--group-readable", is_flag=True, help="Let the group of the directory read a volume in a directory.")
@store_options
@json_option
@verbose_option
def mkfs(
    *,
    volume: str,
    chunker: str,
    block_size: int,
    pack_size: int,
    compression: str,
    label: str,
    allow_unfenced: bool,
    encrypt: bool | None,
    group_readable: bool,
    endpoint_url: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Create a volume at the URL VOLUME.

    The bucket must exist; a folder is made if it is missing. Neither may hold a volume. Only you can read a volume in a
    folder.

    Example: cas3fs mkfs --encrypt --compression zstd:6 s3://bucket/volume
    """
    from cas3fs.commands.mkfs import create_volume

    log_to_stderr(verbose)
    store = store_settings(normal_url(volume), endpoint_url)
    settings = VolumeSettings(
        chunker=chunker,
        block_size_bytes=block_size,
        pack_size_bytes=pack_size,
        compression=compression,
        label=label,
        allow_unfenced=allow_unfenced,
        group_readable=group_readable,
        encrypt=_is_encrypted(encrypt, store.secrets),
    )
    made = create_volume(store, settings)
    if as_json:
        print_json(made)
    else:
        click.echo(f"volume {made['uuid']} created at {made['url']}")
        if made["fingerprint"] is not None:
            click.echo(f"encrypted with {made['cipher']}; fingerprint {made['fingerprint']}")


def _is_encrypted(encrypt: bool | None, secrets: SecretSettings) -> bool:
    """Whether the volume is to be encrypted; asked for at a terminal where the command line does not say it.

    Raises:
        UsageError: nobody can be asked; or a secret was given for a volume that is not to be encrypted.
    """
    if encrypt is None and sys.stdin.isatty():
        encrypt = click.confirm("Encrypt the volume?", default=True, err=True)
    if encrypt is None:
        raise UsageError("say whether the volume is to be encrypted: --encrypt or --no-encrypt")
    if secrets.is_given and not encrypt:
        raise UsageError("a passphrase or a key was given, and --no-encrypt")
    return encrypt
