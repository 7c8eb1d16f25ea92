"""Where everything is in a spool."""

import os
import stat
from contextlib import suppress
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from i2ii_spool import __version__
from i2ii_spool.errors import InvalidRequest, NewerSpool, SpoolUnusable
from i2ii_spool.host.filesystems import file_system_of, is_network
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.spool.durable_io import sync_folder, write_unsynced

FORMAT = 1
"""Of a spool: how its folders are laid out and what its records mean. It is raised by a change that
an older version would take for something else, and by no other: a new folder or field is none."""
MAX_FORMAT_BYTES = 100

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
    if text is None or text in list(State):
        return None if text is None else State(text)
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
    .lock/<worker>           flock held by a worker for life; its holder alone may unlink it
    .keys/<digest>           which job an Idempotency-Key stands for
    .thumbnails/<id>/        small pictures of a job; a cache
    format                   the version of all this; where it is missing, 1
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
        self.thumbnails = self.root / ".thumbnails"
        self.format = self.root / "format"

    @cached_property
    def is_on_network(self) -> bool:
        """Whether it is on a network file system, which may not show yet what another host did."""
        return is_network(file_system_of(self.root))

    def status_file(self, worker: str) -> Path:
        """Where a worker tells what it does; the mtime is its heartbeat."""
        return self.workers / f"{worker}.json"

    def refresh(self, folder: Path) -> None:
        """Have this host see what others have done in a folder.

        A client of a network file system may take a name for present or absent for half a minute
        after another host has moved it. NFS asks its server when a folder is opened (close-to-open
        consistency), and then forgets what has changed. A local file system is never asked.
        """
        if self.is_on_network:
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))

    def folders(self) -> list[Path]:
        """Every directory below the root."""
        hidden = [self.staging, self.trash, self.locks, self.keys, self.thumbnails]
        # `incoming/` last: while another process creates the spool, one that finds it has them all.
        return [*hidden, self.workers, self.failed, self.done, self.running, self.incoming]

    def create(self) -> None:
        """Create the directories that are missing, durably.

        Raises `SpoolUnusable` if they cannot be created, or if jobs could not move between them,
        and `NewerSpool`.
        """
        self.check_format()
        try:
            if not self.root.exists():
                _create_path(self.root)
                os.chmod(self.root, FOLDER_MODE)
            if not self.incoming.exists():  # first, so that no older version uses the folders
                write_unsynced(self.format, f"{FORMAT}\n".encode())
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

    def check_format(self) -> None:
        """Raise `NewerSpool` if a later version has made the spool, or has converted it.

        Raises `SpoolUnusable` if that cannot be read.
        """
        try:
            with open_regular(self.format) as file:
                text = file.read(MAX_FORMAT_BYTES).decode(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, InvalidRequest) as error:
            raise SpoolUnusable(
                f"{self.format} cannot be read ({error}): it says which version of i2ii the spool "
                f"is for; make it a file that this user may read, with {FORMAT} in it"
            ) from error
        if not (text.isdecimal() and int(text) <= FORMAT):
            raise NewerSpool(
                f"{self.format} says {text!r}, and this version of i2ii, "
                f"{__version__}, knows formats up to {FORMAT}: "
                "upgrade i2ii on this host, or name another spool with I2II_SPOOL"
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
    """Create a folder of a spool.

    Raises `FileExistsError`, and `SpoolUnusable` if the file system refuses its mode.
    """
    os.mkdir(folder)
    # The parent passes on the setgid bit, and the umask of an i2ii process leaves the rest: chmod
    # is then not needed, and a sandbox may forbid it.
    if stat.S_IMODE(os.stat(folder).st_mode) != FOLDER_MODE:
        try:
            os.chmod(folder, FOLDER_MODE)
        except PermissionError as error:
            os.rmdir(folder)
            raise SpoolUnusable(
                f"{file_system_of(Path(folder).parent)} refuses mode {FOLDER_MODE:o} for a new "
                f"folder ({error.strerror}): run `i2ii doctor`"
            ) from error
