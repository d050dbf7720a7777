# SPDX-License-Identifier: GPL-3.0-or-later
"""Storing and publishing what a mounted volume holds."""

from typing import NoReturn

from cas3fs.commands.mount_service import MountService
from cas3fs.config import LocalFolders, StoreSettings
from cas3fs.control import Progress
from cas3fs.control.messages.base import EmptyReply
from cas3fs.control.messages.mount import FlushReply, FlushRequest, StoreRequest
from cas3fs.errors import MountError


def store_mounted(service: MountService, request: StoreRequest, progress: Progress) -> EmptyReply:
    """Store everything that was written before; do nothing on a read-only mount."""
    publisher = service.volume.publisher
    if publisher is not None:
        service.write_back()
        publisher.store(progress)
        if service.volume.filesystem.unstorable_files():
            publisher.publish(progress)  # which shows whether the store accepts anything
    return EmptyReply()


def flush_mounted(service: MountService, request: FlushRequest, progress: Progress) -> FlushReply:
    """Store everything that was written before, and publish it."""
    publisher = service.publisher("there is nothing to flush")
    service.write_back()
    return FlushReply(publisher.publish(progress, name=request.name), service.volume.unstored_files())


def refuse_unmounted(
    settings: StoreSettings, folders: LocalFolders, request: FlushRequest, progress: Progress
) -> NoReturn:
    """Raise MountError: only a mount has something to flush."""
    raise MountError(f"{settings.url} is not mounted on this machine, so there is nothing to flush")
