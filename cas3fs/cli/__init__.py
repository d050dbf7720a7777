# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: ``cas3fs VERB ...``, a module for each verb, with its options and its output.

Every verb prints its report to standard output, with ``--json`` as one JSON value. Progress and errors go to standard
error. The exit status is 0 for success, 1 for failure with one line ``cas3fs: ...``, and 2 for a wrong command line.

To add a verb: see `cas3fs.commands`. To add an option of mount: a field of `WriterSettings` or `MountSettings` in
`cas3fs.config`, which has the default, and the option in `mount`. Options that several verbs have are in `common`.

A module is imported when its verb is called, and what the verb needs when it runs, so that ``cas3fs --help`` is quick.
The subpackage knows of commands, control and config, and reaches all below through them.
"""

from cas3fs.cli.program import main

__all__ = ["main"]
