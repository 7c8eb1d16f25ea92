"""The two primitives that carry all durability: write a file, move a job.

After `write_file` or `move` returns, power may fail: what was asked for stays. Whatever an fsync
reports is raised and never retried, since a second fsync may report success after the kernel has
dropped the data (https://wiki.postgresql.org/wiki/Fsync_Errors). The operation has failed; a daemon
ends.
"""

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

# Group members may read and move jobs; nobody else may look.
FILE_MODE = 0o660

TEMP_FILE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a machine after power loss, sees all of it or
    nothing."""
    _publish(path, data, durable=True)
    sync_folder(path.parent)


def write_hint(path: Path, data: bytes) -> None:
    """Like `write_file` for what may vanish with the power: a reader sees all of it or nothing;
    nothing is fsynced."""
    _publish(path, data, durable=False)


def _publish(path: Path, data: bytes, *, durable: bool) -> None:
    # A name of its own: two writers, or a writer that died here earlier, must not share a
    # half-written file.
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = create_file(temp)
    try:
        _write(descriptor, data, durable=durable)
        os.rename(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def write_marker(path: Path) -> None:
    """Make an empty file, durably: its name is all that it says."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE))
    sync_folder(path.parent)


def sweep_temp_files(folder: Path) -> None:
    """Remove what writers that died here have left."""
    for name in os.listdir(folder):
        if TEMP_FILE.fullmatch(name):
            unlink_if_exists(folder / name)


def unlink_if_exists(path: Path) -> None:
    """Remove a file if it is there. A folder that somebody has put under its name stays."""
    with suppress(FileNotFoundError, IsADirectoryError):
        path.unlink()


def is_folder(path: Path) -> bool:
    """Whether there is a folder; a link to one is none."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def write_new(path: str, data: bytes) -> None:
    """Write a file of a folder that nobody reads yet, durably but for its name: it needs no
    temporary one."""
    _write(create_file(path), data, durable=True)


def create_file(path: Path | str) -> int:
    """Create a file that must not be there yet; return its descriptor, for writing."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)


def _write(descriptor: int, data: bytes, *, durable: bool) -> None:
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(
            descriptor
        )  # it is checked: on a network file system this is where a full disk shows


def sync_file(path: Path) -> None:
    """Make the contents of an existing file durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path | str) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if (
            error.errno != errno.EINVAL
        ):  # some FUSE file systems cannot sync a folder, and say so with EINVAL
            raise
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Rename a job folder, durably. Raises `FileNotFoundError` if somebody else was first."""
    os.rename(source, target)
    # The target first: between the two a power loss may leave the job under both names, never under
    # neither.
    for folder in dict.fromkeys((target.parent, source.parent)):
        sync_folder(folder)
