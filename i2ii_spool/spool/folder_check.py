"""What is in a folder that another process has filled: checked entry by entry.

No link is followed, and nothing is opened that could block, or be larger than what is read. The
folder is opened once: whatever its name means later, the check is of the same folder.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i2ii_spool.errors import InvalidRequest, TooLarge
from i2ii_spool.host.filesystems import unescaped
from i2ii_spool.images import formats
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.jobs.text import has_control_characters
from i2ii_spool.spool.durable_io import is_temp_file
from i2ii_spool.spool.side_files import is_backup, is_side_file, is_silly_renamed, is_unfinished

MAX_FILES = 64
MAX_ENTRIES = 256
"""With what systems leave beside the files: macOS may double their number."""
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
    points = [unescaped(line.split(" ")[4]) for line in lines]
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
            if not (entry.is_file(follow_symlinks=False) or is_side_file(entry.name)):
                raise _not_a_file(entry.name, entry.stat(follow_symlinks=False).st_mode)


def _not_a_file(name: str, mode: int) -> InvalidRequest:
    kind = KINDS.get(stat.S_IFMT(mode), "a device")
    return InvalidRequest(f"{name!r} is {kind}; a job folder holds regular files only")


def regular_files(folder: Path, *, max_bytes: int) -> list[str]:
    """Return the names of the files of a folder that may become a job, side files left out.

    Raises `InvalidRequest`, or `TooLarge`, if it holds anything that a job must not.
    """
    paths = _entries(folder)
    names = {path.name for path in paths}
    files = [
        path.name
        for path in paths
        # A temporary file: another process writes its job.json now.
        if not (is_temp_file(path.name) or _is_left_behind(path, names))
    ]
    for name in files:
        _check_file(folder / name, max_bytes)
    if len(files) > MAX_FILES or len(paths) > MAX_ENTRIES:
        raise TooLarge(
            f"the folder holds more than {MAX_FILES} files; "
            "a job needs its pictures and a prompt.txt"
        )
    return files


def _is_left_behind(path: Path, names: set[str]) -> bool:
    """Whether an entry is a side file. A hidden file that holds a picture is one that is being
    copied, whatever its name, unless the name is that of a removed one."""
    if is_silly_renamed(path.name):
        return True
    if not is_side_file(path.name):
        return is_backup(path.name, names) or (
            path.name.startswith("._") and content_format(path) == "AppleDouble"
        )
    return not path.name.startswith(".") or not formats.is_picture(content_format(path))


def content_format(path: Path) -> str | None:
    """Return what `formats.identify` says of a file; None of what is not a regular file."""
    try:
        with open_regular(path) as file:
            return formats.identify(file.read(formats.HEAD_BYTES))
    except InvalidRequest:
        return None


def _check_file(path: Path, max_bytes: int) -> None:
    name, status = path.name, path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise _not_a_file(name, status.st_mode)
    if status.st_nlink > 1:
        raise InvalidRequest(
            f"{name!r} is a hard link: the file has another name elsewhere; copy it instead"
        )
    if status.st_mode & SPECIAL_BITS:
        raise InvalidRequest(f"{name!r} has its setuid, setgid or sticky bit set; chmod 660 it")
    if has_control_characters(name):
        raise InvalidRequest(
            f"{name!r} has a control character in its name, or is not UTF-8; rename the file"
        )
    if name.startswith(".") or is_unfinished(name):
        raise InvalidRequest(
            f"{name!r} is named like a file that is still being copied; rename or remove it"
        )
    if status.st_size > max_bytes:
        raise TooLarge(
            f"{name} has {status.st_size} bytes; at most {max_bytes} are read: make it smaller"
        )
