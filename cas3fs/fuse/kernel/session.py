# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of one mount: agreement with the kernel (INIT), serving requests, the end.

`serve` is the reader: it takes a request, has it carried out, writes the reply, and takes the next. A request whose
handler returns `Deferred` goes to the pool of its kind, whose threads write their replies themselves. Neither an
exception of a handler nor a result without sense ends the mount: the request is answered with an errno, and the session
goes on.

**Interrupts.** The kernel sends INTERRUPT for every signal that reaches a program while it waits, harmless ones
included, and the program waits on; it sends no more than that one message for a request. A program that is being
*killed* goes on waiting too, for as long as its request lasts. So a thread watches over the requests that were
interrupted: when the program that waits has SIGKILL pending, which is what the kernel makes of every signal that ends a
program, its request is answered by EINTR, if nobody has begun with it, if it is abandonable, or as soon as it pauses
(module `pauses`). Other signals are ignored, as local file systems do.

**The end.** An unmount ends `serve` by itself. `stop` ends it from another thread: it unmounts, puts ``/dev/null`` in
place of the connection, and sends the reader a signal, whose handler does nothing. If the reader waits at that moment,
Python tries its read again, which now finds the end of ``/dev/null``; if not, its next read does. So one signal
suffices, whenever it comes. What is not answered by then fails, as the kernel aborts a connection that nobody has open.

Lock: `_lock` guards `_waiting`, the deferred requests that nobody has replied to, `_pools`, and the fields that name
threads. Whoever removes a request from `_waiting` writes the reply, so there is one. Nothing is waited for under it.
"""

import errno
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cas3fs.fuse.kernel import protocol, replies
from cas3fs.fuse.kernel.channel import Channel, ChannelError, ConnectionEnded
from cas3fs.fuse.kernel.dispatch import Dispatcher, Handlers, Malformed, Pending, Unsupported
from cas3fs.fuse.kernel.pauses import GivenUp
from cas3fs.fuse.kernel.pool import Pool
from cas3fs.fuse.kernel.protocol import Feature, Opcode
from cas3fs.fuse.kernel.replies import Encoder, Reply, ReplyFormat
from cas3fs.fuse.kernel.waiting import Waiter

_PAGE_BYTES = 4096
_HEADROOM_BYTES = 4096
"""What a message may have beside its data; the kernel wants buffers of at least 8 KiB in all."""
_SIGKILL_BIT = 1 << 8
WAKING_SIGNAL: Final = signal.SIGURG
"""Its handler is taken over by a session; by default the system ignores it."""
_WATCH_INTERVAL_S = 0.5
_NEVER_ANSWERED: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY})

DEFAULT_FEATURES: Final = (
    Feature.ASYNC_READ
    | Feature.BIG_WRITES
    | Feature.EXPORT_SUPPORT
    | Feature.MAX_PAGES
    | Feature.ABORT_ERROR
    | Feature.PARALLEL_DIROPS
    | Feature.CACHE_SYMLINKS
    | Feature.DO_READDIRPLUS
    | Feature.READDIRPLUS_AUTO
    | Feature.SETXATTR_EXT
    | Feature.INIT_EXT
)

_NAMES: Final = MappingProxyType({int(opcode): opcode.name for opcode in Opcode})

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionSettings:
    """How to serve.

    Args:
        format: what holds for all replies.
        features: what is asked of the kernel; it grants what it has.
        max_write: the most bytes of one WRITE, and of one READ.
        max_background: how many reads ahead and background writes the kernel keeps under way.
        pool_threads: how many deferred requests of one kind are carried out at once.
    """

    format: ReplyFormat = field(default_factory=ReplyFormat)
    features: Feature = DEFAULT_FEATURES
    max_write: int = 256 * 1024
    max_background: int = 64
    pool_threads: int = 16


@dataclass(frozen=True)
class Agreement:
    """What INIT came to."""

    minor: int
    features: Feature
    max_readahead: int


@dataclass(slots=True)
class _Waiting:
    """A deferred request."""

    pending: Pending
    opcode: int
    inode: int
    pid: int
    """The thread that waits for it."""
    has_begun: bool = False
    is_interrupted: bool = False

    def may_be_given_up(self) -> bool:
        pending = self.pending
        return not self.has_begun or pending.abandonable or (pending.pauses is not None and pending.pauses.give_up())


ErrnoOf = Callable[[BaseException, int, int], int]
"""From an exception of a handler, the opcode and the inode to the errno that the program sees; may log."""


def default_errno_of(error: BaseException, opcode: int, inode: int) -> int:
    """That of an OSError; EIO, logged with its traceback, for anything else."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    _log.error("%s of inode %d failed in an unforeseen way", name_of(opcode), inode, exc_info=error)
    return errno.EIO


def name_of(opcode: int) -> str:
    """The opcode's name, or its number."""
    return _NAMES.get(opcode) or f"opcode {opcode}"


class Session:
    """One mount, from the first request to the end."""

    def __init__(
        self,
        channel: Channel,
        handlers: Handlers,
        settings: SessionSettings,
        errno_of: ErrnoOf = default_errno_of,
    ) -> None:
        """Serves what comes by `channel`, which belongs to the session from now on.

        The main thread makes sessions, as only that one may install the handler of a signal; any thread may serve.
        """
        self._channel = channel
        self._handlers = handlers
        self._settings = settings
        self._errno_of = errno_of
        self._encoder = Encoder(settings.format)
        self._view = memoryview(bytearray(settings.max_write + _HEADROOM_BYTES))
        self._pools: dict[str, Pool[tuple[int, _Waiting]]] = {}
        self._lock = threading.Lock()
        self._done = threading.Condition(self._lock)
        self._waiting: dict[int, _Waiting] = {}
        self._watcher: threading.Thread | None = None
        self._reader: int | None = None
        signal.signal(WAKING_SIGNAL, _ignore)
        self.requests = [0] * protocol.OPCODES
        """How many requests of each opcode came."""
        self.agreement: Agreement | None = None
        """None before INIT."""

    # --- INIT

    def _agree(self, length: int, unique: int) -> None:
        """Answers INIT.

        Raises:
            ChannelError: the kernel is too old.
        """
        offset = protocol.REQUEST_HEADER.size
        major, minor, readahead, features = protocol.INIT_IN.unpack_from(self._view, offset)
        more = offset + protocol.INIT_IN.size
        if features & Feature.INIT_EXT and length >= more + 4:
            features |= int.from_bytes(self._view[more : more + 4], sys.byteorder) << 32
        if major != protocol.KERNEL_MAJOR or minor < protocol.OLDEST_MINOR:
            self._channel.send(replies.error(unique, errno.EPROTO))
            raise ChannelError(
                f"the kernel speaks version {major}.{minor} of the FUSE protocol,"
                f" and {protocol.KERNEL_MAJOR}.{protocol.OLDEST_MINOR} (Linux 5.4) or later is needed"
            )
        granted = self._settings.features & features
        settings = self._settings
        reply = protocol.INIT_REPLY.pack(
            protocol.INIT_REPLY.size,
            0,
            unique,
            protocol.KERNEL_MAJOR,
            min(minor, protocol.NEWEST_MINOR),
            readahead,
            granted & 0xFFFFFFFF,
            settings.max_background,
            settings.max_background * 3 // 4,
            settings.max_write,
            1,
            max(1, settings.max_write // _PAGE_BYTES),
            0,
            granted >> 32,
        )
        self.agreement = Agreement(minor, Feature(granted), readahead)
        self._channel.send(reply)

    def begin(self) -> Agreement:
        """Waits for INIT and answers it; `serve` does it by itself where it was not done.

        Raises:
            ChannelError: the kernel is too old, or unmounted already.
        """
        if self.agreement is None:
            try:
                length = self._channel.receive([self._view])
            except ConnectionEnded:
                raise ChannelError("the mount ended before it began") from None
            _, opcode, unique, *_ = protocol.REQUEST_HEADER.unpack_from(self._view)
            if opcode != Opcode.INIT:
                raise ChannelError(f"the kernel began with {name_of(opcode)} and not with INIT")
            self._agree(length, unique)
        assert self.agreement is not None
        return self.agreement

    # --- the reader

    def serve(self) -> None:
        """Carries out requests until the mount ends, by an unmount, an abort, or `stop`."""
        agreement = self.begin()
        dispatcher = Dispatcher(
            self._handlers, self._encoder, long_setxattr=bool(agreement.features & Feature.SETXATTR_EXT)
        )
        with self._lock:
            self._reader = threading.get_ident()
        try:
            with suppress(ConnectionEnded):
                self._read_on(dispatcher)
        finally:
            with self._lock:
                self._reader = None

    def _read_on(self, dispatcher: Dispatcher) -> None:
        view, buffers, receive = self._view, [self._view], Waiter(self._channel).receive
        unpack, requests = protocol.REQUEST_HEADER.unpack_from, self.requests
        operations, least_bytes = dispatcher.operations, dispatcher.least_bytes
        while True:
            length = receive(buffers)
            announced, opcode, unique, inode, _, _, pid, _, _ = unpack(view)
            operation = operations[opcode] if opcode < protocol.OPCODES else None
            requests[opcode & (protocol.OPCODES - 1)] += 1
            if operation is None:
                self._answer_rest(opcode, unique)
                continue
            try:
                if announced != length or length < least_bytes[opcode]:
                    raise Malformed(f"{length} bytes, of which the header announces {announced}")
                reply = operation(view, length, unique, inode)
            except Exception as error:  # noqa: BLE001 - one request failed, and the mount goes on
                reply = self._failed(error, opcode, unique, inode)
            if reply.__class__ is Pending:
                self._defer(unique, _Waiting(reply, opcode, inode, pid))
            elif reply is not None and opcode not in _NEVER_ANSWERED:
                self._send(unique, opcode, reply)

    def _answer_rest(self, opcode: int, unique: int) -> None:
        if opcode == Opcode.INTERRUPT:
            (other,) = protocol.INTERRUPT_IN.unpack_from(self._view, protocol.REQUEST_HEADER.size)
            self._interrupt(other)
        elif opcode not in _NEVER_ANSWERED:
            self._send(unique, opcode, replies.error(unique, errno.ENOSYS))

    def _failed(self, error: Exception, opcode: int, unique: int, inode: int) -> Reply:
        if isinstance(error, Unsupported):
            return replies.error(unique, errno.ENOSYS)
        if isinstance(error, GivenUp):
            return replies.error(unique, errno.EINTR)
        if isinstance(error, Malformed):
            _log.error("the kernel sent a malformed %s: %s", name_of(opcode), error)
            return replies.error(unique, errno.EIO)
        return replies.error(unique, self._errno_of(error, opcode, inode))

    def _send(self, unique: int, opcode: int, reply: Reply) -> None:
        try:
            self._channel.send(reply)
        except FileNotFoundError:  # given up meanwhile
            self._take_back(opcode, reply)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ECONNABORTED, errno.EPERM):
                return  # the mount is gone; the reader sees it
            _log.error("the kernel refuses the reply to %s: %s", name_of(opcode), error)
            self._take_back(opcode, reply)
            self._send_error(unique, errno.EIO)

    def _send_error(self, unique: int, number: int) -> None:
        try:
            self._channel.send(replies.error(unique, number))
        except OSError as error:
            _log.debug("nor does it take an error: %s", error)

    def _take_back(self, opcode: int, reply: Reply) -> None:
        """The kernel never saw `reply`: it will neither FORGET the inodes nor RELEASE the handle that were in it."""
        try:
            inodes = replies.inodes_given(opcode, reply)
            if inodes:
                self._handlers.forget([(inode, 1) for inode in inodes])
            handle = replies.handle_given(opcode, reply)
            if handle is not None:
                (self._handlers.releasedir if opcode == Opcode.OPENDIR else self._handlers.release)(handle)
        except Exception as error:  # noqa: BLE001 - the mount goes on
            self._errno_of(error, opcode, 0)

    # --- what is deferred

    def _defer(self, unique: int, waiting: _Waiting) -> None:
        pool = self._pools.get(waiting.pending.kind)
        if pool is None:
            pool = Pool(f"fuse-{waiting.pending.kind or 'pool'}", self._settings.pool_threads, self._carry_out)
            with self._lock:
                self._pools[waiting.pending.kind] = pool
        with self._lock:
            self._waiting[unique] = waiting
        pool.submit((unique, waiting))

    def wait_for_deferred(self, opcode: int) -> None:
        """Returns when those deferred requests with that opcode that came before are carried out; for any thread."""
        with self._lock:
            before = {unique for unique, waiting in self._waiting.items() if waiting.opcode == opcode}
            self._done.wait_for(lambda: before.isdisjoint(self._waiting))

    def _carry_out(self, job: tuple[int, _Waiting]) -> None:
        unique, waiting = job
        with self._lock:
            if unique not in self._waiting:
                return  # given up before anybody began with it
            waiting.has_begun = True
        try:
            reply = waiting.pending.encode(waiting.pending.run())
        except Exception as error:  # noqa: BLE001 - one request failed, and the mount goes on
            reply = self._failed(error, waiting.opcode, unique, waiting.inode)
        if self._claim(unique):
            self._send(unique, waiting.opcode, reply)
        else:
            self._take_back(waiting.opcode, reply)

    def _claim(self, unique: int) -> bool:
        """Whether it is for the caller to reply."""
        with self._lock:
            is_ours = self._waiting.pop(unique, None) is not None
            self._done.notify_all()
            return is_ours

    # --- interrupts

    def _interrupt(self, unique: int) -> None:
        """A signal has reached the thread that waits for the request."""
        with self._lock:
            waiting = self._waiting.get(unique)
            if waiting is None:
                return
            waiting.is_interrupted = True
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="fuse-interrupts", daemon=True)
                self._watcher.start()

    def _watch(self) -> None:
        """Gives up what killed threads wait for, as long as anything that was interrupted is waited for."""
        while self._give_up_killed():
            time.sleep(_WATCH_INTERVAL_S)

    def _give_up_killed(self) -> bool:
        with self._lock:
            interrupted = [(unique, one) for unique, one in self._waiting.items() if one.is_interrupted]
            if not interrupted:
                self._watcher = None
                return False
        for unique, waiting in interrupted:
            if is_being_killed(waiting.pid):
                self._give_up(unique, waiting)
        return True

    def _give_up(self, unique: int, waiting: _Waiting) -> None:
        with self._lock:
            if not waiting.may_be_given_up() or self._waiting.pop(unique, None) is None:
                return
            self._done.notify_all()
        self._send_error(unique, errno.EINTR)

    # --- the end

    def stop(self) -> None:
        """Ends the mount and `serve`, at once; from any thread, and as often as one likes.

        A thread of the pool that is at work ends when its request does, and its reply goes nowhere.
        """
        if self._channel.is_mounted():  # neither unmounted nor, after an abort, left in the tree
            try:
                self._channel.unmount()
            except ChannelError as error:
                _log.warning("%s", error)
        self._channel.close()
        with self._lock:
            if self._reader is not None:
                signal.pthread_kill(self._reader, WAKING_SIGNAL)
            pools = list(self._pools.values())
        for pool in pools:
            pool.close()


def _ignore(*_: object) -> None:
    pass


def is_being_killed(pid: int) -> bool:
    """Whether the thread `pid` has SIGKILL pending: bit 9 of ``SigPnd`` or ``ShdPnd`` in its status (proc(5))."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return True  # it is gone, or was never visible from here
    for line in status.splitlines():
        name, _, value = line.partition(b":")
        if name in (b"SigPnd", b"ShdPnd") and int(value, 16) & _SIGKILL_BIT:
            return True
    return False
