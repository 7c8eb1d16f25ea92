"""Where everything lies in a spool."""

import os
import stat
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from i2ii_spool.errors import InvalidRequest, SpoolUnusable
from i2ii_spool.spool.durable_io import sync_folder

# Setgid, so that what anybody in the group puts in belongs to the group; nobody else may look.
FOLDER_MODE = 0o2770


class State(StrEnum):
    """The folder in which a job lies is its state; there is no other."""

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

    incoming/<id>/           waiting; `ls incoming` is the queue, in order incoming/<any-name>/
    a guest: a folder somebody copied or moved in by hand running/<worker>/<id>/   claimed;
    `.<id>.retry` beside it: the ending in it is that of an earlier life done/<id>/
    finished, result inside failed/<id>/             failed, cancelled or refused
    workers/<worker>.json    one status file per worker; its mtime is the heartbeat .tmp/<id>/
    being written; never read by others .trash/<id>/             being deleted; `<id>.gone`
    remembers that it was .lock/<worker>           flock held by a worker for life; never unlinked
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

    def create(self) -> None:
        """Make what is missing of the spool, durably. Raises `SpoolUnusable` if jobs could not move
        within it."""
        try:
            if not self.root.exists():
                _make_path(self.root)
                os.chmod(self.root, FOLDER_MODE)
            for folder in self.folders():
                _make_folder(folder)
            sync_folder(self.root)
        except OSError as error:
            raise SpoolUnusable(
                f"cannot make the spool at {self.root}: {error}; create it for this user, or set I2II_SPOOL"
            ) from error
        self._check_one_file_system()

    def make_worker(self, worker: str) -> Path:
        """Make the folder of a worker's jobs, durably: they would go where it goes."""
        folder = self.running / worker
        _make_folder(folder)
        sync_folder(self.running)
        return folder

    def folders(self) -> list[Path]:
        """All that lies below the root."""
        states = [self.incoming, self.running, self.done, self.failed]
        return [*states, self.workers, self.staging, self.trash, self.locks, self.keys]

    def _check_one_file_system(self) -> None:
        device = self.root.stat().st_dev
        for folder in self.folders():
            if folder.stat().st_dev != device:
                raise SpoolUnusable(
                    f"{folder} is on another file system than {self.root}; a job moves by rename(2), which "
                    "cannot cross: unmount it"
                )


def _make_path(folder: Path) -> None:
    """Make a folder and what is missing above it, durably."""
    if not folder.exists():
        _make_path(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _make_folder(folder: Path) -> None:
    with suppress(FileExistsError):
        make_folder(folder)


def make_folder(folder: Path | str) -> None:
    """Make a folder of a spool. Raises `FileExistsError`."""
    os.mkdir(folder)
    # The parent gives it the setgid bit, and where the umask is ours the rest: a sandbox may forbid
    # to set them.
    if stat.S_IMODE(os.stat(folder).st_mode) != FOLDER_MODE:
        os.chmod(folder, FOLDER_MODE)
