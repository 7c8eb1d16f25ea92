"""Waking up when something is put into a folder.

The events are hints: inotify overflows, and sees nothing of what another host does on a network
file system. Whoever waits here must look for himself every second or two; the hint only makes it
sooner.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import DirCreatedEvent, FileCreatedEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter
from watchdog.observers.inotify_c import InotifyConstants, Mask

log = logging.getLogger(__name__)


class _ArrivalEmitter(InotifyEmitter):
    """Listens for arrivals alone.

    watchdog holds each departure back for half a second, to pair it with an arrival elsewhere, and
    with it every event behind it; a claim is a departure, so the next job's wake-up would come half
    a second late.
    """

    def get_event_mask_from_filter(self) -> Mask:
        return Mask(
            InotifyConstants.IN_MOVED_TO
            | InotifyConstants.IN_CREATE
            | InotifyConstants.IN_DELETE_SELF
        )


class _Handler(FileSystemEventHandler):
    def __init__(self, arrived: Callable[[str], None]) -> None:
        self._arrived = arrived

    def on_created(self, event: DirCreatedEvent | FileCreatedEvent) -> None:
        self._arrived(os.path.basename(os.fsdecode(event.src_path)))


class Watcher:
    """Calls `arrived(name)`, in a thread of its own, for each entry that appears in one of
    `folders`."""

    def __init__(self, folders: list[Path], arrived: Callable[[str], None]) -> None:
        self._observer = BaseObserver(_ArrivalEmitter)
        for folder in folders:
            self._observer.schedule(_Handler(arrived), str(folder))

    def __enter__(self) -> "Watcher":
        try:
            self._observer.start()
        except OSError as error:  # the user's inotify instances or watches are used up
            log.warning("no file events (%s): looking every second instead", error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()
