"""Guests: folders that somebody has put into `incoming/` by hand.

A guest becomes a job when everything that it needs is there and nothing in it has changed for a while: name, size,
mtime, ctime, inode of every entry, watched on our own monotonic clock. (A newest mtime some seconds in the past proves
nothing: `cp -p` gives half-copied files their old dates. The ctime cannot be set.) A guest that stays wrong goes to
`failed/` with the reason; it is never deleted. What it holds is never followed, and never opened unless it is a
regular file.
"""

import logging
import os
import re
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool import job
from i2ii_spool.errors import I2iiError, InvalidRequest, TooLarge
from i2ii_spool.job import MAX_IMAGES, Job, is_id, new_id, open_regular, parse, parse_json
from i2ii_spool.pictures import SUFFIXES, inspect
from i2ii_spool.spool.durable import clear_half_written, move, sync_file, sync_folder, write_file, write_hint
from i2ii_spool.spool.failure import write_failure
from i2ii_spool.spool.layout import Spool

log = logging.getLogger(__name__)

MAX_ENTRIES = 64
MAX_TEXT = 64 * 1024
TEMP_NAME = re.compile(r"\..*|.*~|.*\.(tmp|temp|part|partial|filepart|crdownload|swp)", re.IGNORECASE)
HARMLESS = {".DS_Store"}
NOTE_SUFFIX = ".rejected"

Fingerprint = tuple[tuple[str | int, ...], ...]


@dataclass
class Observation:
    """What a guest looked like, and since when (monotonic seconds) it has looked so."""

    fingerprint: Fingerprint
    since: float


class Doorkeeper:
    """Admits and refuses guests, for one process that calls `look` again and again."""

    def __init__(self, spool: Spool, *, settle: float, patience: float, max_bytes: int, max_pixels: int) -> None:
        self._spool = spool
        self._settle = settle
        self._patience = patience
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._observed: dict[str, Observation] = {}

    def look(self) -> list[str]:
        """Look at every guest once; return the ids of the jobs that some have become."""
        names = {entry.name for entry in os.scandir(self._spool.incoming) if self._is_guest(entry)}
        self._observed = {name: seen for name, seen in self._observed.items() if name in names}
        _drop_old_notes(self._spool)
        admitted = []
        for name in sorted(names):
            try:
                admitted += self._look_at(self._spool.incoming / name)
            except FileNotFoundError:  # it has gone, or another process has admitted it
                self._observed.pop(name, None)
            except PermissionError as error:
                note_beside(self._spool.incoming / name, f"i2ii may not read or move it: {error.strerror}")
            except Exception:  # whatever it is, its neighbours do not wait for it
                log.exception("guest %r cannot be looked at", name)
        return admitted

    def _is_guest(self, entry: os.DirEntry[str]) -> bool:
        if entry.name.startswith(".") or entry.name.endswith(NOTE_SUFFIX):
            return False
        # A folder without a job.json that bears an id is not one of ours: it is being copied in under that name.
        return not is_id(entry.name) or not os.path.lexists(os.path.join(entry.path, job.JOB))

    def _look_at(self, guest: Path) -> list[str]:
        quiet = self._quiet_for(guest)
        if not stat.S_ISDIR(guest.lstat().st_mode):
            if quiet >= self._settle:
                note_beside(guest, "it is not a folder")
            return []
        is_ready = (guest / job.READY).exists()
        if quiet < self._settle and not is_ready:
            return []
        try:
            return [self._admit(guest)]
        except I2iiError as error:
            if quiet >= self._patience or is_ready:
                self._refuse(guest, error)
            return []

    def _quiet_for(self, guest: Path) -> float:
        """For how many seconds the guest has not changed, as far as we have seen."""
        now = time.monotonic()
        fingerprint = _fingerprint(guest)
        seen = self._observed.get(guest.name)
        if seen is None or seen.fingerprint != fingerprint:
            seen = self._observed[guest.name] = Observation(fingerprint, now)
        return now - seen.since

    def _admit(self, guest: Path) -> str:
        clear_half_written(guest)  # ours, of an admission that was cut short
        files = _regular_files(guest)
        record = _read_request(guest, files)
        for name in record.inputs:
            self._check_input(guest, name, files)
        _check_access(guest)
        for name in files:
            sync_file(guest / name)
        if job.JOB in files:
            sync_folder(guest)
        else:
            write_file(guest / job.JOB, record.to_json())
        id = new_id(_name(guest))
        move(guest, self._spool.incoming / id)
        log.info("guest admitted: %s is now %s", _legible(guest.name), id)
        return id

    def _check_input(self, guest: Path, name: str, files: dict[str, int]) -> None:
        if name not in files:
            raise InvalidRequest(f"inputs names {name}, which is not there", field="inputs")
        if files[name] > self._max_bytes:
            raise TooLarge(f"{name} has {files[name]} bytes; at most {self._max_bytes} are read", field="inputs")
        inspect(guest / name, max_pixels=self._max_pixels, field=name)

    def _refuse(self, guest: Path, error: I2iiError) -> None:
        write_failure(guest, error)
        id = new_id(_name(guest))
        move(guest, self._spool.failed / id)
        log.warning("guest refused: %s is now in failed/%s: %s", _legible(guest.name), id, error)


def _name(guest: Path) -> str:
    """The guest's name; of one that was refused before and has come back, without the id that it was given then."""
    name = _legible(guest.name)
    return name.partition("_")[2] if is_id(name) else name


def _fingerprint(guest: Path) -> Fingerprint:
    """All that changes when anything in the guest changes. A folder too full to be a job is known by its first entries
    and its own times."""
    entries = [guest]
    if stat.S_ISDIR(guest.lstat().st_mode):
        entries += sorted(_entries(guest))
    return tuple(_print_of(entry) for entry in entries)


def _entries(guest: Path) -> list[Path]:
    with os.scandir(guest) as entries:
        return [Path(entry.path) for entry, _ in zip(entries, range(MAX_ENTRIES + 1), strict=False)]


def _print_of(path: Path) -> tuple[str | int, ...]:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return (path.name,)
    return (path.name, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _regular_files(guest: Path) -> dict[str, int]:
    """Return the guest's files and their sizes in bytes. Raises `InvalidRequest` if it holds anything else."""
    files = {}
    for path in _entries(guest):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest(f"{path.name!r} is {_kind(status.st_mode)}; a job folder holds regular files only")
        if path.name in HARMLESS:
            continue
        if not _is_utf_8(path.name):
            raise InvalidRequest(f"{path.name!r} is not a name in UTF-8; rename the file")
        if TEMP_NAME.fullmatch(path.name):
            raise InvalidRequest(f"{path.name!r} is named like a file that is still being copied; rename or remove it")
        files[path.name] = status.st_size
    if len(files) > MAX_ENTRIES:
        raise TooLarge(f"the folder holds more than {MAX_ENTRIES} files; a job needs its pictures and a prompt.txt")
    return files


def _is_utf_8(name: str) -> bool:
    return _legible(name) == name


def _legible(name: str) -> str:
    """Return a name from the disk with what is not UTF-8 in it replaced; JSON could not hold it."""
    return os.fsencode(name).decode(errors="replace")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def _read_request(guest: Path, files: dict[str, int]) -> Job:
    """Return what the guest asks for, with the names of its pictures filled in."""
    if job.JOB in files:
        record = parse_json(Job, _read_text(guest, job.JOB, files))
    elif job.PROMPT in files:
        text = _read_text(guest, job.PROMPT, files).decode("utf-8-sig", errors="replace")
        record = parse(Job, {"prompt": text.strip(), "name": _name(guest)[:200], "submitted_at": datetime.now(UTC)})
    else:
        raise InvalidRequest("there is neither a prompt.txt nor a job.json; write into prompt.txt what to do")
    inputs = record.inputs or find_inputs(list(files))
    if not 1 <= len(inputs) <= MAX_IMAGES:
        raise InvalidRequest(f"there are {len(inputs)} pictures; a job has one to {MAX_IMAGES}", field="inputs")
    return record.model_copy(update={"inputs": inputs})


def _read_text(guest: Path, name: str, files: dict[str, int]) -> bytes:
    if files[name] > MAX_TEXT:
        raise TooLarge(f"{name} has {files[name]} bytes; at most {MAX_TEXT} are read")
    with open_regular(guest / name) as file:
        return file.read(MAX_TEXT)


def find_inputs(names: list[str]) -> tuple[str, ...]:
    """Return those of `names` that are a job's pictures when its `job.json` names none, first one first."""
    pictures = [name for name in names if Path(name).suffix.lower() in SUFFIXES and not name.startswith("result")]
    ours = [name for name in pictures if re.fullmatch(r"input(-\d+)?\.\w+", name)]
    return tuple(sorted(ours or pictures, key=_natural))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort `input.png` before `input-2.png` before `input-10.png`."""
    stem = Path(name).stem
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", stem)]


def _check_access(guest: Path) -> None:
    if not os.access(guest, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(13, "the folder is not writable for the group")


def note_beside(entry: Path, reason: str) -> None:
    """Say in `<name>.rejected`, beside what cannot be moved, why it is not taken, and what to do."""
    note = entry.with_name(entry.name + NOTE_SUFFIX)
    if note.exists():
        return
    name = _legible(entry.name)
    log.warning("%s is not taken: %s", name, reason)
    cure = (
        "A job is a folder with a picture and a prompt.txt, which the group may write to:\n"
        f"    chmod -R g+rwX {name}    # if the folder is yours\n"
    )
    write_hint(note, f"{name} is not taken: {reason}.\n{cure}".encode())


def _drop_old_notes(spool: Spool) -> None:
    for note in spool.incoming.glob(f"*{NOTE_SUFFIX}"):
        if not os.path.lexists(str(note).removesuffix(NOTE_SUFFIX)):
            note.unlink(missing_ok=True)
