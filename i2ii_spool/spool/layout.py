"""Where everything is in a spool."""

import os
import stat
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from i2ii_spool.errors import InvalidRequest, SpoolUnusable
from i2ii_spool.spool.durable_io import sync_folder

# Setgid: what a group member puts in belongs to the group. Other users have no access.
FOLDER_MODE = 0o2770


class State(StrEnum):
    """The directory that a job is in is its state; there is no other."""

    INCOMING = "incoming"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


def parse_state(text: str | None) -> State | None:
    """Return the state called `text`, None for None. Raises `InvalidRequest`."""
    if not text or text in list(State):
        return State(text) if text else None
    raise InvalidRequest(f"state must be one of {', '.join(State)}, got {text!r}", field="state")


class Spool:
    """The paths of one spool.

    incoming/<id>/           waiting; `ls incoming` is the queue, in order
    incoming/<any-name>/     a guest: a folder that a user copied or moved in
    running/<worker>/<id>/   claimed; `.<id>.retry` beside it: the ending inside is an earlier one
    done/<id>/               finished, result inside
    failed/<id>/             failed, cancelled or refused
    workers/<worker>.json    one status file per worker; its mtime is the heartbeat
    .tmp/<id>/               being written; never read by others
    .trash/<id>/             being deleted; `<id>.gone` remembers that it was there
    .lock/<worker>           flock held by a worker for life; never unlinked
    .keys/<digest>           which job an Idempotency-Key stands for
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.incoming = self.root / State.INCOMING
        self.running = self.root / State.RUNNING
        self.done = self.root / State.DONE
        self.failed = self.root / State.FAILED
        self.workers = self.root / "workers"
        self.staging = self.root / ".tmp"
        self.trash = self.root / ".trash"
        self.locks = self.root / ".lock"
        self.keys = self.root / ".keys"

    def folders(self) -> list[Path]:
        """Every directory below the root."""
        states = [self.incoming, self.running, self.done, self.failed]
        return [*states, self.workers, self.staging, self.trash, self.locks, self.keys]

    def create(self) -> None:
        """Create the directories that are missing, durably.

        Raises `SpoolUnusable` if they cannot be created, or if jobs could not move between them.
        """
        try:
            if not self.root.exists():
                _create_path(self.root)
                os.chmod(self.root, FOLDER_MODE)
            for folder in self.folders():
                with suppress(FileExistsError):
                    create_folder(folder)
            sync_folder(self.root)
        except OSError as error:
            raise SpoolUnusable(
                f"cannot create the spool at {self.root}: {error}; "
                "create it for this user, or set I2II_SPOOL"
            ) from error
        device = self.root.stat().st_dev
        for folder in self.folders():
            if folder.stat().st_dev != device:
                raise SpoolUnusable(
                    f"{folder} is on another file system than {self.root}; "
                    "a job moves by rename(2), which cannot cross: unmount it"
                )

    def create_worker(self, worker: str) -> Path:
        """Create running/<worker>/ and fsync its parent.

        If a power failure took the folder, it would take the jobs in it.
        """
        folder = self.running / worker
        with suppress(FileExistsError):
            create_folder(folder)
        sync_folder(self.running)
        return folder


def _create_path(folder: Path) -> None:
    """Create a folder and what is missing above it, durably."""
    if not folder.exists():
        _create_path(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def create_folder(folder: Path | str) -> None:
    """Create a folder of a spool. Raises `FileExistsError`."""
    os.mkdir(folder)
    # The parent passes on the setgid bit, and the umask of an i2ii process leaves the rest: chmod
    # is then not needed, and a sandbox may forbid it.
    if stat.S_IMODE(os.stat(folder).st_mode) != FOLDER_MODE:
        os.chmod(folder, FOLDER_MODE)
