# SPDX-License-Identifier: GPL-3.0-or-later
"""The program: its verbs, and the one place where errors become a line and an exit status."""

import sys
from collections.abc import Sequence
from typing import TextIO, cast

import click

from cas3fs import __version__
from cas3fs.cli.epochs import epochs
from cas3fs.cli.flush import flush
from cas3fs.cli.fork import fork
from cas3fs.cli.fsck import fsck
from cas3fs.cli.gc import gc
from cas3fs.cli.mkfs import mkfs
from cas3fs.cli.mount import mount
from cas3fs.cli.printable import PrintableStream, printable, system_error
from cas3fs.cli.rescue import rescue
from cas3fs.cli.snapshot import snapshot
from cas3fs.cli.stats import stats
from cas3fs.cli.umount import umount
from cas3fs.errors import Cas3fsError, UsageError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cas3fs")
def program() -> None:
    """A deduplicating, compressed file system that keeps its data on S3.

    VOLUME is a URL: s3://bucket/prefix or file:///folder. Where a volume is mounted on this machine, its mount point
    may stand for it. S3 is configured as boto3 always is: AWS_PROFILE, AWS_ENDPOINT_URL_S3 and so on.
    """


for _verb in (mkfs, mount, umount, flush, stats, gc, fsck, snapshot, rescue, epochs, fork):
    program.add_command(_verb)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, prints what goes wrong, and gives the exit status."""
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
