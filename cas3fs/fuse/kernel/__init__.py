# SPDX-License-Identifier: GPL-3.0-or-later
"""A server for the Linux kernel's FUSE protocol, without libfuse, and without anything of cas3fs.

Whoever has a file system in Python can use it: write a class with the methods of `dispatch.Handlers`, open a
`channel.Channel` on a mount point, and run a `session.Session`::

    channel = Channel.mount(Path("/mnt"), MountOptions(source="mine", subtype="mine"))
    session = Session(channel, MyHandlers(), SessionSettings())
    session.serve()  # until it is unmounted
    session.stop()

Vocabulary
    request      one message of the kernel; it has a number, *unique*, and most have exactly one reply
    inode        a file of whatever type, by a number that the handlers choose; 1 is the root
    lookups      how often the kernel was given an inode; it says by FORGET how many of those it gives back
    handle       an open file or directory, by a number that the handlers choose
    handler      the method that carries a request out
    deferred     a request whose handler would wait: it is carried out by a thread of the session's pool
    pause        the time in which a deferred request that changes something only waits, and may be given up
    connection   what the kernel has for one mount: the descriptor and all requests under way

One thread, the reader, takes requests and carries out those that need not wait. Measured, that is faster than several
readers, as the threads of Python exclude each other anyway. So a handler never waits for a disk, a network or another
request: it returns `dispatch.Deferred`, and the reader goes on.

Modules: `protocol` (numbers and layouts), `replies` (putting replies together), `dispatch` (from the bytes of a request
to a call of a handler), `channel` (the descriptor: mounting, reading, writing, unmounting), `session` (the life of a
mount), `pauses` (when requests of killed programs are given up), `waiting` (how the reader waits for requests),
`mount_table` (what is mounted where), `notify` (telling the kernel that something changed behind its back).
"""
