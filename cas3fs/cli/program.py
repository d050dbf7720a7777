# SPDX-License-Identifier: GPL-3.0-or-later
"""The program: its verbs, and the one place where an error becomes a line on standard error and an exit status."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Final, TextIO, cast

import click

from cas3fs import __version__
from cas3fs.cli.printable import PrintableStream, printable, system_error
from cas3fs.errors import Cas3fsError, UsageError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130


VERBS: Final = (
    "mkfs", "mount", "umount", "flush", "stats", "du", "gc", "fsck", "snapshot", "history", "restore", "rescue",
    "epochs", "fork", "key", "copy",
)  # fmt: skip
"""In the order of ``--help``. Each is a command of that name in a module of that name."""


def load_verb(name: str) -> click.Command:
    """The command of one of `VERBS`."""
    return cast(click.Command, getattr(importlib.import_module(f"cas3fs.cli.{name}"), name))


class VerbGroup(click.Group):
    """Imports a verb when it is called, or when the help lists it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_verb(cmd_name) if cmd_name in VERBS else _ALIASES.get(cmd_name)


@click.command("help")
@click.argument("verbs", nargs=-1, metavar="[VERB]...")
@click.pass_context
def _help(context: click.Context, verbs: Sequence[str]) -> None:
    """Show what --help shows, of the program or of a verb."""
    assert context.parent is not None
    program.main(args=[*verbs, "--help"], prog_name=context.parent.info_name, standalone_mode=False)


@click.command("version")
def _version() -> None:
    """Show the version."""
    click.echo(f"cas3fs, version {__version__}")


_ALIASES: Final[Mapping[str, click.Command]] = {"help": _help, "version": _version}
"""Verbs that the help does not list, for those who try them."""


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cas3fs")
def program() -> None:
    """A deduplicating, compressed file system that keeps its data on S3.

    VOLUME is a URL: s3://bucket/prefix or file:///folder. If the volume is mounted on this machine, its mount point can
    be given instead. S3 is configured as for boto3: AWS_PROFILE, AWS_ENDPOINT_URL_S3 and so on.

    Example: cas3fs mkfs --encrypt s3://bucket/volume && cas3fs mount s3://bucket/volume /mnt/volume
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, print errors, and return the exit status."""
    try:
        status = program.main(args=arguments, prog_name="cas3fs", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return USAGE
    except UsageError as error:
        return _fail(str(error), USAGE)
    except Cas3fsError as error:
        return _fail(str(error), FAILURE)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except OSError as error:
        return _fail(system_error(error), FAILURE)
    return status if isinstance(status, int) else 0


def _fail(text: str, status: int) -> int:
    click.echo(f"cas3fs: {printable(' '.join(text.split()))}", err=True)
    return status


def main() -> None:
    """The entry point of the command ``cas3fs``."""
    sys.stdout = cast(TextIO, PrintableStream(sys.stdout))
    sys.exit(run())
