"""The two primitives that carry all durability: write a file, move a job.

After `write_file` or `move` returns, the change survives a power failure. An error of fsync is
raised and never retried, since a second fsync may report success after the kernel has dropped the
data (https://wiki.postgresql.org/wiki/Fsync_Errors). The operation has failed; a daemon ends.
"""

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from functools import partial
from io import BufferedReader, FileIO
from pathlib import Path

from i2ii_spool.host.filesystems import file_system_of, is_network
from i2ii_spool.jobs.folder import WRITTEN, retry_stale

# Group members may read and move jobs. Other users have no access.
FILE_MODE = 0o660

NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""What a file system says that cannot sync a folder."""
NO_FOLDER_SYNC_ON_NETWORK = (errno.EBADF, errno.EACCES)
"""What a network file system may say instead. A local one never does."""

TEMP_FILE = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")


def write_file(path: Path, data: bytes) -> None:
    """Write a file; a reader, or the disk after a power failure, has all of it or nothing."""
    _publish(path, data, durable=True)
    sync_folder(path.parent)


def write_unsynced(path: Path, data: bytes) -> None:
    """Like `write_file`; the name is durable once the caller has synced the folder."""
    _publish(path, data, durable=True)


def write_hint(path: Path, data: bytes) -> None:
    """Like `write_file`, without fsync: a power failure may lose the file."""
    _publish(path, data, durable=False)


def _publish(path: Path, data: bytes, *, durable: bool) -> None:
    # A unique name: two writers, or a writer that died here earlier, must not share a file.
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = create_file(temp)
    try:
        _write(descriptor, data, durable=durable)
        os.rename(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def write_new(path: str, data: bytes) -> None:
    """Write a file into a folder that no other process reads yet: it needs no temporary name.

    Its contents are durable; its name is once the folder is synced.
    """
    _write(create_file(path), data, durable=True)


def open_new(path: str, data: bytes) -> BufferedReader:
    """Like `write_new`, and return the file, for reading. Its contents are not durable yet."""
    descriptor = create_file(path, os.O_RDWR)
    file: BufferedReader = BufferedReader(FileIO(descriptor))
    try:
        _write_all(descriptor, data)
    except BaseException:
        file.close()
        raise
    return file


def write_marker(path: Path) -> None:
    """Create an empty file, durably: its name is all that it says."""
    with suppress(FileExistsError):
        os.close(create_file(path))
    sync_folder(path.parent)


def create_file(path: Path | str, access: int = os.O_WRONLY) -> int:
    """Create a file that must not exist yet; return its descriptor, for writing.

    Its group can read it whatever the umask of the process.
    """
    descriptor = os.open(path, access | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        os.fchmod(descriptor, FILE_MODE)
    except BaseException:
        os.close(descriptor)
        os.unlink(path)
        raise
    return descriptor


def _write(descriptor: int, data: bytes, *, durable: bool) -> None:
    try:
        _write_all(descriptor, data)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)  # checked: a network file system reports a full disk here


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


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
        if not _cannot_sync_folders(error, Path(path)):
            raise
    finally:
        os.close(descriptor)


def _cannot_sync_folders(error: OSError, path: Path) -> bool:
    """Whether the error means that the file system has no fsync for folders: it keeps their names
    durable itself, or cannot."""
    return error.errno in NO_FOLDER_SYNC or (
        error.errno in NO_FOLDER_SYNC_ON_NETWORK and is_network(file_system_of(path))
    )


def move(source: Path, target: Path) -> None:
    """Rename a job folder, durably. Raises `FileNotFoundError` if another process was faster."""
    os.rename(source, target)
    # The target first: a power failure between the two may leave the job under both names, but
    # never under neither.
    for folder in dict.fromkeys((target.parent, source.parent)):
        sync_folder(folder)


def unlink_if_exists(path: Path) -> None:
    """Remove a file if it exists. A folder of that name, which a user put there, stays."""
    with suppress(FileNotFoundError, IsADirectoryError):
        path.unlink()


def sweep_temp_files(folder: Path) -> None:
    """Remove the temporary files of writers that died in this job folder."""
    for name in os.listdir(folder):
        if is_temp_file(name):
            unlink_if_exists(folder / name)


def is_temp_file(name: str) -> bool:
    """Whether a file in a job folder is the temporary file of one that i2ii writes there.

    A user's program may name its temporary files in the same way: `.photo.jpg.0123abcd.tmp`.
    """
    match = TEMP_FILE.fullmatch(name)
    return match is not None and WRITTEN.fullmatch(match[1]) is not None


def is_folder(path: Path) -> bool:
    """Whether there is a folder, not a link to one."""
    try:
        return stat.S_ISDIR(retry_stale(partial(os.lstat, path)).st_mode)
    except FileNotFoundError:
        return False
