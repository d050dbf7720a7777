# SPDX-License-Identifier: GPL-3.0-or-later
"""The use case behind each verb of the command line, a module for each: ``commands/gc.py`` is what ``cli/gc.py`` calls.

Words
    request    what a command wants of a volume: a class of `cas3fs.control.messages` with the class of its reply
    mounted    done by the process that has the volume mounted on this machine, which a request reaches by its socket
    unmounted  done by this process, which opens the volume for that

`requests` is the one table of them. A command calls ``carry_out(target, SomeRequest(...))`` and gets the reply,
wherever it is done. `mount` is the process of a mount, and `mount_service` what its requests work with.

To add a verb: a module here with what it does, and a module of that name in `cas3fs.cli` with its options and output,
whose name goes into ``VERBS`` of `cas3fs.cli.program`. If the process of a mount must do it, too: a request in
`cas3fs.control.messages`, and an entry in the table of `requests`.

The subpackage does not know of options and output, and commands do not call each other.
"""
