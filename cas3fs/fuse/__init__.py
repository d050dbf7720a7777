# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves a file system to the kernel: a FUSE request becomes a call of FileSystem, an error becomes an errno.

Vocabulary:

- *front-end*: what speaks FUSE with the kernel. There are two: `kernel_frontend` speaks the kernel's protocol itself,
  by the server in `kernel`, which knows nothing of cas3fs; `llfuse_frontend` leaves that to the binding llfuse, which
  nothing else imports. `frontends` chooses.
- *handlers* (`handlers`): one method for each request, the same for every front-end. They know the rules of the
  kernel's requests, but neither how a request arrives nor what a reply looks like.
- *worker*: a thread that may wait on behalf of a request. The kernel front-end has pools of them, beside its reader,
  which never waits; the workers of llfuse read requests themselves. `limiter` bounds how many of them wait at once.
- *mount point*: the folder on which the volume appears. It is *stale* when its process has ended but the kernel still
  has the mount.

This package does not know stores, epochs, snapshots or the index. `mountpoints` and `options` need no front-end, so the
command line can check mount points without loading one.
"""
