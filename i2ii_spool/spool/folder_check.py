"""What lies in a folder that somebody else has filled: judged entry by entry.

No link is followed, and nothing is opened that could make us wait or hold more than we mean to
read. The folder itself is opened once: whatever its name comes to mean while we look, we look at
the same folder.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool.errors import InvalidRequest, TooLarge
from i2ii_spool.images.probe import IMAGE_SUFFIXES
from i2ii_spool.jobs.folder import JOB, PROMPT, JobFolder, read_record
from i2ii_spool.jobs.request import MAX_IMAGES, Job, parse, parse_json
from i2ii_spool.jobs.text import printable
from i2ii_spool.spool.durable_io import TEMP_FILE

MAX_ENTRIES = 64
TEMP_NAME = re.compile(
    r"\..*|.*~|.*\.(tmp|temp|part|partial|filepart|crdownload|swp)", re.IGNORECASE
)
HARMLESS = {".DS_Store"}
SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX

Fingerprint = tuple[tuple[str | int, ...], ...]


@contextmanager
def opened(folder: Path) -> Iterator[Path]:
    """Yield a path of the folder that stays its path even if it is renamed, or another is put in
    its place.

    Raises `NotADirectoryError` for what is not a folder, such as a link to one.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def mounted_in(folder: Path) -> set[str]:
    """The entries of a folder at which, or below which, something is mounted
    (proc_pid_mountinfo(5))."""
    above = f"{os.path.realpath(folder)}/"
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    points = [
        re.sub(r"\\([0-7]{3})", lambda escaped: chr(int(escaped[1], 8)), line.split(" ")[4])
        for line in lines
    ]
    return {
        point.removeprefix(above).partition("/")[0] for point in points if point.startswith(above)
    }


# --- what changes when anything changes -----------------------------------------------------------


def fingerprint(folder: Path) -> Fingerprint:
    """All that changes when anything in an opened folder changes. One too full to be a job is known
    by its first entries and its own times."""
    return _stat_fingerprint("", folder.stat()) + tuple(
        part for entry in sorted(_entries(folder)) for part in entry_fingerprint(entry)
    )


def entry_fingerprint(path: Path) -> Fingerprint:
    """The same of an entry that is not a folder."""
    try:
        return _stat_fingerprint(path.name, path.lstat())
    except FileNotFoundError:
        return ((path.name,),)


def _stat_fingerprint(name: str, status: os.stat_result) -> Fingerprint:
    return (
        (
            name,
            status.st_mode,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
        ),
    )


def _entries(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry, _ in zip(entries, range(MAX_ENTRIES + 1), strict=False)]


# --- the entries ----------------------------------------------------------------------------------


def check_regular(folder: Path) -> None:
    """Raise `InvalidRequest` if the folder holds anything but files."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                raise _not_a_file(entry.name, entry.stat(follow_symlinks=False).st_mode)


def regular_files(folder: Path, *, max_bytes: int) -> dict[str, int]:
    """Return the names and sizes (bytes) of the files of a folder that might become a job.

    Raises `InvalidRequest`, or `TooLarge`, if it holds anything that a job should not.
    """
    files = {}
    for path in _entries(folder):
        status = path.lstat()
        _check_kind(path.name, status)
        if path.name in HARMLESS or TEMP_FILE.fullmatch(
            path.name
        ):  # a job.json that another process writes now
            continue
        _check_name(path.name)
        if status.st_size > max_bytes:
            raise TooLarge(
                f"{path.name} has {status.st_size} bytes; at most {max_bytes} are read: make it smaller"
            )
        files[path.name] = status.st_size
    if len(files) > MAX_ENTRIES:
        raise TooLarge(
            f"the folder holds more than {MAX_ENTRIES} files; a job needs its pictures and a prompt.txt"
        )
    return files


def _check_kind(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _not_a_file(name, status.st_mode)
    if status.st_nlink > 1:
        raise InvalidRequest(
            f"{name!r} is a hard link: the file has another name elsewhere; copy it instead"
        )
    if status.st_mode & SPECIAL_BITS:
        raise InvalidRequest(f"{name!r} has its setuid, setgid or sticky bit set; chmod 660 it")


def _not_a_file(name: str, mode: int) -> InvalidRequest:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
    }
    kind = kinds.get(stat.S_IFMT(mode), "a device")
    return InvalidRequest(f"{name!r} is {kind}; a job folder holds regular files only")


def _check_name(name: str) -> None:
    if printable(name) != name:
        raise InvalidRequest(f"{name!r} is not a printable name in UTF-8; rename the file")
    if TEMP_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} is named like a file that is still being copied; rename or remove it"
        )


# --- the request ----------------------------------------------------------------------------------


def read_request(folder: Path, files: dict[str, int], name: str) -> Job:
    """Return what the folder asks for, with the names of its pictures filled in; the job is called
    `name`.

    Raises `InvalidRequest`, or `TooLarge`.
    """
    if JOB in files:
        record = parse_json(Job, read_record(JobFolder(folder).job))
    elif PROMPT in files:
        text = read_record(JobFolder(folder).prompt).decode("utf-8-sig", errors="replace")
        record = parse(
            Job, {"prompt": text.strip(), "name": name[:200], "submitted_at": datetime.now(UTC)}
        )
    else:
        raise InvalidRequest(
            "there is neither a prompt.txt nor a job.json; write into prompt.txt what to do"
        )
    inputs = record.inputs or find_inputs(list(files))
    if not 1 <= len(inputs) <= MAX_IMAGES:
        raise InvalidRequest(
            f"there are {len(inputs)} pictures; a job has one to {MAX_IMAGES}", field="inputs"
        )
    return record.model_copy(update={"inputs": inputs})


def find_inputs(names: list[str]) -> tuple[str, ...]:
    """Return those of `names` that are a job's pictures when its `job.json` names none, first one
    first."""
    pictures = [
        name
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("result")
    ]
    ours = [name for name in pictures if re.fullmatch(r"input(-\d+)?\.\w+", name)]
    return tuple(sorted(ours or pictures, key=_natural))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort `input.png` before `input-2.png` before `input-10.png`."""
    stem = Path(name).stem
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", stem)]
