"""Admission: a guest, a folder that a user put into `incoming/`, becomes a job.

A guest is admitted when all that it needs is there and nothing in it has changed for a while: name,
size, mtime, ctime and inode of every entry, watched on this process's monotonic clock. A newest
mtime some seconds in the past would prove nothing, since `cp -p` gives half-copied files their old
dates; the ctime cannot be set. A guest that stays invalid moves to `failed/` with the reason. It is
never deleted.
"""

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from i2ii_spool.errors import I2iiError, InvalidRequest
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.images.probe import Header, inspect, inspect_mask
from i2ii_spool.jobs.folder import JOB, JobFolder, open_regular, read_record
from i2ii_spool.jobs.ids import is_id, new_id
from i2ii_spool.jobs.request import Job
from i2ii_spool.jobs.text import printable
from i2ii_spool.spool.durable_io import (
    move,
    sweep_temp_files,
    sync_file,
    sync_folder,
    write_file,
    write_hint,
)
from i2ii_spool.spool.failure import check_records, write_failure
from i2ii_spool.spool.folder_check import (
    Fingerprint,
    entry_fingerprint,
    fingerprint,
    mounted_in,
    opened,
    regular_files,
)
from i2ii_spool.spool.job_request import check_result, find_pictures, read_request
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.outputs import workers_pictures
from i2ii_spool.spool.webhook import NO_WEBHOOKS, WebhookPolicy

log = logging.getLogger(__name__)

NOTE_SUFFIX, NOTE_WORDS = ".rejected", " is not admitted: "
REMEMBER_SECONDS = 60.0
MAX_NOTED_BYTES = 200
"""Bytes of a name that go into the name of its note; file systems take 255."""


class StillChanging(Exception):
    """The guest changed during the check."""


@dataclass
class Observation:
    """What a guest looked like, and since when (monotonic seconds)."""

    fingerprint: Fingerprint
    since: float
    error: I2iiError | None = None
    """Why it is not admitted as it is now."""


class Admission:
    """Admits and refuses guests, for one process that calls `run_once` again and again."""

    def __init__(
        self,
        spool: Spool,
        *,
        settle: float,
        patience: float,
        max_bytes: int,
        max_pixels: int,
        webhooks: WebhookPolicy = NO_WEBHOOKS,
    ) -> None:
        self._spool = spool
        self._settle = settle
        self._patience = patience
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._webhooks = webhooks
        self._observed: dict[str, Observation] = {}
        self._jobs: set[tuple[str, int]] = set()
        """The jobs that were in `incoming/` at the last look, by name and inode."""
        self._forget_at = 0.0

    def run_once(self) -> list[str]:
        """Check every guest once; return the ids of the jobs that some have become."""
        names = self._find_guests()
        self._observed = {name: seen for name, seen in self._observed.items() if name in names}
        _sweep_notes(self._spool)
        mounted = mounted_in(self._spool.incoming) if names else set()
        admitted = []
        for name in sorted(names):
            path = self._spool.incoming / name
            try:
                if name in mounted:  # not even a stat: the server of a mount may never answer
                    write_note(path, "something is mounted there")
                else:
                    admitted += self._check(path)
            except (FileNotFoundError, StillChanging):  # it is gone, or admitted elsewhere
                self._observed.pop(name, None)
            except PermissionError as error:
                write_note(path, f"i2ii may not read or move it: {error.strerror}")
            except Exception:  # the other guests must not wait for this one
                log.exception("guest %s cannot be checked", printable(name))
        return admitted

    def _find_guests(self) -> set[str]:
        """Return the names of all that is in `incoming/` and is not a job.

        A network file system is asked twice for each: there, only what is new is looked into, and
        once a minute the rest.
        """
        jobs, names = set(), set()
        if time.monotonic() >= self._forget_at or not self._spool.is_on_network:
            self._jobs.clear()
            self._forget_at = time.monotonic() + REMEMBER_SECONDS
        with os.scandir(self._spool.incoming) as entries:
            for entry in entries:
                key = entry.name, entry.inode()
                if key in self._jobs or _is_job(entry):
                    jobs.add(key)
                elif _is_guest(entry):
                    names.add(entry.name)
        self._jobs = jobs
        return names

    def _check(self, path: Path) -> list[str]:
        """Admit or refuse a guest whose time has come; return its id if it was admitted."""
        try:
            with opened(path) as guest:
                quiet = self._quiet_for(path.name, fingerprint(guest))
                is_ready = os.path.lexists(JobFolder(guest).ready)
                if quiet < self._settle and not is_ready:
                    return []
                seen = self._observed[path.name]
                if seen.error is None:
                    try:
                        return [self._admit(path, guest)]
                    except I2iiError as error:
                        seen.error = error  # nothing is judged again until something changes
                if quiet >= self._patience or is_ready:
                    self._refuse(path, guest, seen.error)
                return []
        except NotADirectoryError:
            if self._quiet_for(path.name, entry_fingerprint(path)) >= self._settle:
                write_note(path, "it is not a folder")
            return []

    def _quiet_for(self, name: str, current: Fingerprint) -> float:
        """Seconds for which this process has seen the guest unchanged."""
        now = time.monotonic()
        seen = self._observed.get(name)
        if seen is None or seen.fingerprint != current:
            seen = self._observed[name] = Observation(current, now)
        return now - seen.since

    def _admit(self, path: Path, guest: Path) -> str:
        before = fingerprint(guest)
        files = regular_files(guest, max_bytes=self._max_bytes)
        check_records(guest, files)
        record = read_request(guest, files, title=_name_of(path))
        self._webhooks.check(record)
        pictures = set(files) - workers_pictures(JobFolder(guest))
        inputs, mask = find_pictures(guest, pictures, record)
        record = record.model_copy(update={"inputs": inputs, "mask": mask})
        for name in record.pictures:
            if name not in files:
                field = "mask" if name == mask else "inputs"
                raise InvalidRequest(f"{field} names {name}, which is not there", field=field)
        headers = [
            inspect(guest / name, max_pixels=self._max_pixels, field=name) for name in inputs
        ]
        check_result(record, headers[0], self._inspect_mask(guest, record))
        _check_access(guest)
        for name in files:
            sync_file(guest / name)
        if fingerprint(guest) != before:
            raise StillChanging
        if JOB in files:
            sync_folder(guest)
        else:
            write_file(JobFolder(guest).job, record.to_json())
        id = self._move(path, guest, self._spool.incoming)
        log.info(
            "guest %s admitted as job %s",
            printable(path.name),
            id,
            extra=fields(JobEvent.ADMITTED, id),
        )
        return id

    def _inspect_mask(self, guest: Path, job: Job) -> Header | None:
        if not job.mask:
            return None
        with open_regular(guest / job.mask) as mask, open_regular(guest / job.inputs[0]) as picture:
            return inspect_mask(mask, picture, max_pixels=self._max_pixels, field=job.mask)

    def _refuse(self, path: Path, guest: Path, error: I2iiError) -> None:
        sweep_temp_files(guest)  # of a refusal that was interrupted
        write_failure(guest, error)
        id = self._move(path, guest, self._spool.failed)
        log.warning(
            "guest %s refused, now failed/%s: %s",
            printable(path.name),
            id,
            error,
            extra=fields(JobEvent.REFUSED, id),
        )

    def _move(self, path: Path, guest: Path, folder: Path) -> str:
        id = new_id(_name_of(path))
        move(path, folder / id)
        # Another folder may have been put under the name meanwhile.
        if not os.path.samestat(guest.stat(), (folder / id).lstat()):
            os.rename(folder / id, path)
            raise StillChanging
        return id


def _is_job(entry: os.DirEntry[str]) -> bool:
    # A folder that bears an id and has no job.json is being copied in under that name.
    return (
        is_id(entry.name)
        and entry.is_dir(follow_symlinks=False)
        and os.path.lexists(os.path.join(entry.path, JOB))
    )


def _is_guest(entry: os.DirEntry[str]) -> bool:
    is_note = entry.name.endswith(NOTE_SUFFIX) and not entry.is_dir(follow_symlinks=False)
    return not (entry.name.startswith(".") or is_note)


def _name_of(path: Path) -> str:
    """The guest's name; of one that was refused and has come back, without the id of that time."""
    name = printable(path.name)
    return name.partition("_")[2] if is_id(name) else name


def _check_access(guest: Path) -> None:
    if not os.access(guest, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(13, "the folder is not writable for the group")


# --- notes ----------------------------------------------------------------------------------------


def write_note(entry: Path, reason: str) -> None:
    """Write `<name>.rejected` beside an entry that cannot be moved: the reason and the cure."""
    note = entry.with_name(_note_name(entry.name))
    if os.path.lexists(note):
        return
    name = printable(entry.name)
    log.warning("%s%s%s", name, NOTE_WORDS, reason)
    cure = (
        "A job is a folder with a picture and a prompt.txt, which the group may write to:\n"
        f"    chmod -R g+rwX {name}    # if the folder is yours\n"
    )
    write_hint(note, f"{name}{NOTE_WORDS}{reason}.\n{cure}".encode())


def _note_name(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:MAX_NOTED_BYTES]) + NOTE_SUFFIX


def _sweep_notes(spool: Spool) -> None:
    """Remove the notes whose entry is gone."""
    notes = set(spool.incoming.glob(f"*{NOTE_SUFFIX}"))
    kept = (
        {spool.incoming / _note_name(name) for name in os.listdir(spool.incoming)}
        if notes
        else set()
    )
    for note in notes - kept:
        # A user may give a file such a name.
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError, InvalidRequest):
            if NOTE_WORDS.encode() in read_record(note).partition(b"\n")[0]:
                note.unlink()
