# SPDX-License-Identifier: GPL-3.0-or-later
"""The requests to the process of a mount, and its replies: a class for each, so that a command imports few.

A request class has the ``verb`` that stands on the socket, its fields are the keys of ``args``, and `reply` is the
class of its answer. So these modules are the format of the messages. It may grow: an older process ignores a key that
it does not know, and a field that an older process does not send needs a default. Nothing is renamed or removed.

What is too long for one message is sent as progress: `ListSnapshotsRequest` as ``{"snapshot": {...}}`` for each,
`FsckRequest` as ``{"finding": {...}}`` for each, `UsageRequest` as ``{"usage": [...]}`` for some. Other progress is
``{"what": text, "done": bytes, "total": bytes}``.

To add a request: declare it in one of these modules, and enter it in the table of `cas3fs.commands.requests`.

Modules: `base`, `mount` (what concerns the mount itself, and stats), `maintenance` (gc and fsck), `snapshots`,
`usage` (du).

`cas3fs.control.conversion` reads and writes the messages.
"""
