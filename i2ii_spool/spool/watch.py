"""Inotify hints: something has appeared in a folder.

The events are hints: inotify overflows, and does not see what another host does on a network file
system. The caller must scan every second or two as well; a hint only makes the scan sooner.
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
    """Listens for arrivals only.

    watchdog holds each departure back for half a second, to pair it with an arrival, and with it
    every later event. A claim is a departure: the next job would start half a second late.
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
        except OSError as error:  # this user has no inotify instance or watch left
            log.warning("no inotify events (%s): scanning every second instead", error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()
