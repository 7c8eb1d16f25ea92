"""Guests: folders that somebody has put into `incoming/` by hand.

A guest becomes a job when everything that it needs is there and nothing in it has changed for a
while: name, size, mtime, ctime, inode of every entry, watched on our own monotonic clock. (A newest
mtime some seconds in the past proves nothing: `cp -p` gives half-copied files their old dates. The
ctime cannot be set.) A guest that stays wrong goes to `failed/` with the reason; it is never
deleted.
"""

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from i2ii_spool.errors import I2iiError, InvalidRequest
from i2ii_spool.images.probe import inspect
from i2ii_spool.jobs.folder import JOB, JobFolder
from i2ii_spool.jobs.ids import is_id, new_id
from i2ii_spool.jobs.text import printable
from i2ii_spool.spool.durable_io import (
    move,
    sweep_temp_files,
    sync_file,
    sync_folder,
    write_file,
    write_hint,
)
from i2ii_spool.spool.failure import write_failure
from i2ii_spool.spool.folder_check import (
    Fingerprint,
    entry_fingerprint,
    fingerprint,
    mounted_in,
    opened,
    read_request,
    regular_files,
)
from i2ii_spool.spool.layout import Spool

log = logging.getLogger(__name__)

NOTE_SUFFIX = ".rejected"
LONGEST_NOTED = 200
"""Bytes of a name; file systems take 255."""


class StillChanging(Exception):
    """Something in the guest has changed while we looked at it."""


@dataclass
class Observation:
    """What a guest looked like, and since when (monotonic seconds) it has looked so."""

    fingerprint: Fingerprint
    since: float


class Admission:
    """Admits and refuses guests, for one process that calls `run_once` again and again."""

    def __init__(
        self, spool: Spool, *, settle: float, patience: float, max_bytes: int, max_pixels: int
    ) -> None:
        self._spool = spool
        self._settle = settle
        self._patience = patience
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._observed: dict[str, Observation] = {}

    def run_once(self) -> list[str]:
        """Look at every guest once; return the ids of the jobs that some have become."""
        with os.scandir(self._spool.incoming) as entries:
            names = {entry.name for entry in entries if self._is_guest(entry)}
        self._observed = {name: seen for name, seen in self._observed.items() if name in names}
        _drop_old_notes(self._spool)
        mounted = mounted_in(self._spool.incoming) if names else set()
        admitted = []
        for name in sorted(names):
            place = self._spool.incoming / name
            try:
                if name in mounted:  # not even a stat: whoever serves a mount may never answer
                    note_beside(place, "something is mounted there")
                else:
                    admitted += self._look_at(place)
            except (
                FileNotFoundError,
                StillChanging,
            ):  # it has gone, or another process has admitted it
                self._observed.pop(name, None)
            except PermissionError as error:
                note_beside(place, f"i2ii may not read or move it: {error.strerror}")
            except Exception:  # whatever it is, its neighbours do not wait for it
                log.exception("guest %s cannot be looked at", printable(name))
        return admitted

    def _is_guest(self, entry: os.DirEntry[str]) -> bool:
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name.startswith(".") or (entry.name.endswith(NOTE_SUFFIX) and not is_folder):
            return False
        # A folder without a job.json that bears an id is not one of ours: it is being copied in
        # under that name.
        return not (
            is_folder and is_id(entry.name) and os.path.lexists(os.path.join(entry.path, JOB))
        )

    def _look_at(self, place: Path) -> list[str]:
        try:
            with opened(place) as guest:
                return self._look_into(place, guest)
        except NotADirectoryError:
            if self._quiet_for(place.name, entry_fingerprint(place)) >= self._settle:
                note_beside(place, "it is not a folder")
            return []

    def _look_into(self, place: Path, guest: Path) -> list[str]:
        quiet = self._quiet_for(place.name, fingerprint(guest))
        is_ready = os.path.lexists(JobFolder(guest).ready)
        if quiet < self._settle and not is_ready:
            return []
        try:
            return [self._admit(place, guest)]
        except I2iiError as error:
            if quiet >= self._patience or is_ready:
                self._refuse(place, guest, error)
            return []

    def _quiet_for(self, name: str, now_like: Fingerprint) -> float:
        """For how many seconds the guest has not changed, as far as we have seen."""
        now = time.monotonic()
        seen = self._observed.get(name)
        if seen is None or seen.fingerprint != now_like:
            seen = self._observed[name] = Observation(now_like, now)
        return now - seen.since

    def _admit(self, place: Path, guest: Path) -> str:
        before = fingerprint(guest)
        files = regular_files(guest, max_bytes=self._max_bytes)
        record = read_request(guest, files, _name(place))
        for name in record.inputs:
            if name not in files:
                raise InvalidRequest(f"inputs names {name}, which is not there", field="inputs")
            inspect(guest / name, max_pixels=self._max_pixels, field=name)
        _check_access(guest)
        for name in files:
            sync_file(guest / name)
        if fingerprint(guest) != before:
            raise StillChanging
        if JOB in files:
            sync_folder(guest)
        else:
            write_file(JobFolder(guest).job, record.to_json())
        return self._move(place, guest, self._spool.incoming)

    def _refuse(self, place: Path, guest: Path, error: I2iiError) -> None:
        sweep_temp_files(guest)  # ours, of a refusal that was cut short
        write_failure(guest, error)
        id = self._move(place, guest, self._spool.failed)
        log.warning("guest refused: %s is now in failed/%s: %s", printable(place.name), id, error)

    def _move(self, place: Path, guest: Path, folder: Path) -> str:
        id = new_id(_name(place))
        move(place, folder / id)
        if not os.path.samestat(
            guest.stat(), (folder / id).lstat()
        ):  # another was put in its place meanwhile
            os.rename(folder / id, place)
            raise StillChanging
        return id


def _name(place: Path) -> str:
    """The guest's name; of one that was refused before and has come back, without the id that it
    was given then."""
    name = printable(place.name)
    return name.partition("_")[2] if is_id(name) else name


def _check_access(guest: Path) -> None:
    if not os.access(guest, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(13, "the folder is not writable for the group")


def note_beside(entry: Path, reason: str) -> None:
    """Say in `<name>.rejected`, beside what cannot be moved, why it is not taken, and what to do."""
    note = entry.with_name(_note_of(entry.name))
    if os.path.lexists(note):
        return
    name = printable(entry.name)
    log.warning("%s is not taken: %s", name, reason)
    cure = (
        "A job is a folder with a picture and a prompt.txt, which the group may write to:\n"
        f"    chmod -R g+rwX {name}    # if the folder is yours\n"
    )
    write_hint(note, f"{name} is not taken: {reason}.\n{cure}".encode())


def _note_of(name: str) -> str:
    """As much of the name as leaves room for what is added to it."""
    return os.fsdecode(os.fsencode(name)[:LONGEST_NOTED]) + NOTE_SUFFIX


def _drop_old_notes(spool: Spool) -> None:
    notes = set(spool.incoming.glob(f"*{NOTE_SUFFIX}"))
    kept = (
        {spool.incoming / _note_of(name) for name in os.listdir(spool.incoming)} if notes else set()
    )
    for note in notes - kept:
        with suppress(
            FileNotFoundError, IsADirectoryError, PermissionError
        ):  # it is no note of ours
            note.unlink()
