"""What is in a folder that another process has filled: checked entry by entry.

No link is followed, and nothing is opened that could block, or be larger than what is read. The
folder is opened once: whatever its name means later, the check is of the same folder.
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
UNFINISHED_NAME = re.compile(
    r"\..*|.*~|.*\.(tmp|temp|part|partial|filepart|crdownload|swp)", re.IGNORECASE
)
HARMLESS = {".DS_Store"}
SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}

Fingerprint = tuple[tuple[str | int, ...], ...]


@contextmanager
def opened(folder: Path) -> Iterator[Path]:
    """Yield a path that stays the folder's path even if the folder is renamed or replaced.

    Raises `NotADirectoryError` for what is not a folder, such as a link to one.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def mounted_in(folder: Path) -> set[str]:
    """The entries of a folder that are mount points, or hold one (proc_pid_mountinfo(5))."""
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
    """All that changes when anything in an opened folder changes.

    Of a folder with more than `MAX_ENTRIES`, only the first count, and the folder's own times.
    """
    own = _of_status("", folder.stat())
    return (own, *(part for entry in sorted(_entries(folder)) for part in entry_fingerprint(entry)))


def entry_fingerprint(path: Path) -> Fingerprint:
    """The same of one entry that is not a folder."""
    try:
        return (_of_status(path.name, path.lstat()),)
    except FileNotFoundError:
        return ((path.name,),)


def _of_status(name: str, status: os.stat_result) -> tuple[str | int, ...]:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (name, status.st_mode, status.st_size, *times, status.st_ino)


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


def _not_a_file(name: str, mode: int) -> InvalidRequest:
    kind = KINDS.get(stat.S_IFMT(mode), "a device")
    return InvalidRequest(f"{name!r} is {kind}; a job folder holds regular files only")


def regular_files(folder: Path, *, max_bytes: int) -> dict[str, int]:
    """Return the names and sizes (bytes) of the files of a folder that may become a job.

    Raises `InvalidRequest`, or `TooLarge`, if it holds anything that a job must not.
    """
    files = {}
    for path in _entries(folder):
        name, status = path.name, path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(name, status.st_mode)
        if status.st_nlink > 1:
            raise InvalidRequest(
                f"{name!r} is a hard link: the file has another name elsewhere; copy it instead"
            )
        if status.st_mode & SPECIAL_BITS:
            raise InvalidRequest(f"{name!r} has its setuid, setgid or sticky bit set; chmod 660 it")
        # A temporary file: another process writes its job.json now.
        if name in HARMLESS or TEMP_FILE.fullmatch(name):
            continue
        if printable(name) != name:
            raise InvalidRequest(f"{name!r} is not a printable name in UTF-8; rename the file")
        if UNFINISHED_NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name!r} is named like a file that is still being copied; rename or remove it"
            )
        if status.st_size > max_bytes:
            raise TooLarge(
                f"{name} has {status.st_size} bytes; at most {max_bytes} are read: make it smaller"
            )
        files[name] = status.st_size
    if len(files) > MAX_ENTRIES:
        raise TooLarge(
            f"the folder holds more than {MAX_ENTRIES} files; "
            "a job needs its pictures and a prompt.txt"
        )
    return files


# --- the request ----------------------------------------------------------------------------------


def read_request(folder: Path, files: dict[str, int], name: str) -> Job:
    """Return the request of a folder, with the names of its pictures; the job is called `name`.

    Raises `InvalidRequest`, or `TooLarge`.
    """
    job = JobFolder(folder)
    if JOB in files:
        record = parse_json(Job, read_record(job.job))
    elif PROMPT in files:
        prompt = read_record(job.prompt).decode("utf-8-sig", errors="replace").strip()
        now = datetime.now(UTC)
        record = parse(Job, {"prompt": prompt, "name": name[:200], "submitted_at": now})
    else:
        raise InvalidRequest(
            "there is neither a prompt.txt nor a job.json; write the instruction into prompt.txt"
        )
    inputs = record.inputs or find_inputs(list(files))
    if not 1 <= len(inputs) <= MAX_IMAGES:
        raise InvalidRequest(
            f"there are {len(inputs)} pictures; a job has one to {MAX_IMAGES}", field="inputs"
        )
    return record.model_copy(update={"inputs": inputs})


def find_inputs(names: list[str]) -> tuple[str, ...]:
    """Return those of `names` that are the pictures of a job whose `job.json` names none."""
    pictures = [
        name
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("result")
    ]
    ours = [name for name in pictures if re.fullmatch(r"input(-\d+)?\.\w+", name)]
    return tuple(sorted(ours or pictures, key=_natural_key))


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Sort `input.png` before `input-2.png` before `input-10.png`."""
    parts = re.split(r"(\d+)", Path(name).stem)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
