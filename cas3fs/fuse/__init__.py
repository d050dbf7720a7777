# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's way into the file system: a FUSE request becomes a call of FileSystem, an error becomes an errno.

Vocabulary: a *session* is one mount from ``mount(2)`` to its end; a *worker* is a thread that takes one request from
the kernel, has it handled and replies; *operations* are the handlers; a *mount point* is the folder on which the
volume appears; it is *stale* when its process is gone but the kernel still has the mount.

Everything that is particular to the binding (llfuse) stays in here, so that another can follow. This room knows
nothing of stores, epochs, snapshots or the index; it imports the binding only in the modules that need it, so that
the command line can look at mount points without it.
"""
