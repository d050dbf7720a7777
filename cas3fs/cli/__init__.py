# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: ``cas3fs VERB ...``, a verb a module.

Every verb prints what it reports to standard output, with ``--json`` as one JSON value; progress and errors go to
standard error. The exit status is 0 for success, 1 for failure with one line ``cas3fs: ...``, 2 for a command line
that makes no sense.

The modules here import nothing heavy at their top, so that ``cas3fs --help`` is quick; what a verb needs, it imports
when it runs. They know of commands, control and config, and of nothing below that could be reached through these.
"""

from cas3fs.cli.program import main

__all__ = ["main"]
