"""Checks of the spool: can a queue rely on these folders and their file system?"""

import fcntl
import grp
import os
import pwd
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from i2ii_spool.host.filesystems import file_system_of, lock_cure, mount_of
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.ops.doctor.finding import Finding, error, ok, warning
from i2ii_spool.ops.doctor.mounts import judge
from i2ii_spool.settings import Settings
from i2ii_spool.spool.capacity import free_bytes
from i2ii_spool.spool.durable_io import move, write_file
from i2ii_spool.spool.layout import FOLDER_MODE, Spool
from i2ii_spool.spool.maintenance import lease_seconds

MIB = 2**20
MAX_SKEW_SECONDS = 2.0
LOCK_TIMEOUT_SECONDS = 20.0
MIN_FREE_FILES = 1000

LOCK_HELD, LOCK_FAILS = 3, 4
TRY_LOCK = f"""
import fcntl, sys
try:
    # Open for writing: without that, NFS refuses an exclusive lock.
    fcntl.flock(open(sys.argv[1], "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit({LOCK_HELD})
except OSError as problem:
    print(problem)
    sys.exit({LOCK_FAILS})
"""


def check_spool(settings: Settings) -> Iterator[Finding]:
    """The spool exists, with all its folders, on one file system."""
    spool = Spool(settings.spool)
    expected = spool.folders() if spool.root.is_dir() else [spool.root]
    missing = [str(folder) for folder in expected if not folder.is_dir()]
    if missing:
        yield error(
            "spool",
            f"not there: {', '.join(missing)}",
            "start `i2ii serve`, `i2ii gpu` or `i2ii up`, which make what is missing; "
            "or name another spool with I2II_SPOOL",
        )
        return
    device = spool.root.stat().st_dev
    apart = [str(folder) for folder in spool.folders() if folder.stat().st_dev != device]
    if apart:
        message = f"on another file system than {spool.root}: {', '.join(apart)}"
        yield error("spool", message, f"umount {apart[0]}")
    else:
        yield ok("spool", str(spool.root))


def check_ownership(settings: Settings) -> Iterator[Finding]:
    """Every folder belongs to one user and one group, and is closed to all others."""
    spool = Spool(settings.spool)
    owner, group = _owner(spool.root)
    wrong = [
        folder
        for folder in spool.folders()
        if _owner(folder) != (owner, group) or stat.S_IMODE(folder.stat().st_mode) != FOLDER_MODE
    ]
    # The root may be listed by all: it holds only the names of the states.
    if spool.root.stat().st_mode & stat.S_IWOTH:
        wrong.insert(0, spool.root)
    if wrong:
        names = " ".join(map(str, wrong))
        cure = f"chown {owner}:{group} {names} && chmod {FOLDER_MODE:o} {names}"
        yield error("ownership", f"not {owner}:{group} with mode {FOLDER_MODE:o}: {names}", cure)
    else:
        yield ok("ownership", f"{owner}:{group}, mode {FOLDER_MODE:o}")


def _owner(path: Path) -> tuple[str, str]:
    status = path.stat()
    try:
        return pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
    except KeyError:  # an account of another host
        return str(status.st_uid), str(status.st_gid)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a user of a container without an account
        return str(os.geteuid())


@contextmanager
def _probe(folder: Path) -> Iterator[Path]:
    """Yield a path in `folder` for a file, which is removed afterwards."""
    path = folder / f".doctor-{secrets.token_hex(4)}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def check_writing(settings: Settings) -> Iterator[Finding]:
    """A file can be written durably and moved between states."""
    spool = Spool(settings.spool)
    try:
        with _probe(spool.staging) as here, _probe(spool.done) as there:
            write_file(here, b"probe")
            move(here, there)
    except OSError as problem:
        user = _user()
        group = _owner(spool.root)[1]
        cure = f"usermod -aG {group} {user}, and log in again"
        yield error("writing", f"{user} cannot write: {problem}", cure)
    else:
        yield ok("writing", "a file can be written, synced and moved")


def check_calls(settings: Settings) -> Iterator[Finding]:
    """The file system has the calls that a file system may lack."""
    spool = Spool(settings.spool)
    lacking = [*_without_folder_sync(spool), *_without_links(spool), *_without_modes(spool)]
    yield from lacking or [ok("calls", "folders sync, hard links, folders keep mode and group")]


def _without_folder_sync(spool: Spool) -> Iterator[Finding]:
    descriptor = os.open(spool.staging, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        message = f"a folder cannot be synced: {problem.strerror}"
        cure = "use another file system, if a power failure must lose no job"
        yield warning("calls", message, cure)
    finally:
        os.close(descriptor)


def _without_links(spool: Spool) -> Iterator[Finding]:
    with _probe(spool.keys) as one, _probe(spool.keys) as two:
        one.touch()
        try:
            os.link(one, two)
        except OSError as problem:
            message = f"no hard links ({problem.strerror}): an Idempotency-Key is refused"
            yield warning("calls", message, "send jobs without the key, or use another file system")


def _without_modes(spool: Spool) -> Iterator[Finding]:
    folder = spool.staging / f".doctor-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        folder.chmod(FOLDER_MODE)
        mode, group = stat.S_IMODE(folder.stat().st_mode), _owner(folder)[1]
    except PermissionError as problem:
        message = f"a new folder cannot get mode {FOLDER_MODE:o}: {problem.strerror}"
        yield error("calls", message, "mount it with POSIX modes, or move the spool")
        return
    finally:
        folder.rmdir()
    wanted = _owner(spool.root)[1]
    if (mode, group) != (FOLDER_MODE, wanted):
        message = f"a new folder gets mode {mode:o} and group {group}, not {FOLDER_MODE:o} {wanted}"
        user = _user()
        cure = f"usermod -aG {wanted} {user}, and log in again; the same on the file server"
        yield error("calls", message, cure)


def check_file_system(settings: Settings) -> Iterator[Finding]:
    """The type of the file system, and how it is mounted, are what a queue can rely on."""
    spool = Spool(settings.spool)
    yield from judge(mount_of(spool.root), lease=lease_seconds(spool, settings))


def check_locks(settings: Settings) -> Iterator[Finding]:
    """A lock that one process holds keeps another process out."""
    locks = Spool(settings.spool).locks
    cure = lock_cure(file_system_of(locks))
    with _probe(locks) as path, path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            yield error("locks", f"a file cannot be locked: {problem}", cure)
            return
        other = subprocess.run(
            [sys.executable, "-c", TRY_LOCK, path],
            capture_output=True, text=True, timeout=LOCK_TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    if other.returncode == LOCK_HELD:
        yield ok("locks", "a lock keeps a second process out")
    elif other.returncode == 0:
        message = "two processes hold the same lock: two workers could run under one name"
        yield error("locks", message, cure)
    else:
        why = (other.stdout or other.stderr).strip().splitlines()[-1:]
        yield error("locks", f"a second process cannot try a lock: {' '.join(why)}", cure)


def check_space(settings: Settings) -> Iterator[Finding]:
    """More than the floor is free, in bytes and in files."""
    spool = Spool(settings.spool)
    free = free_bytes(spool)
    status = os.statvfs(spool.root)
    cure = "i2ii gc --keep-days 7, or a larger disk"
    message = f"{free / MIB:.0f} MiB free, floor {settings.min_free_mib:.0f} MiB"
    if free < settings.min_free:
        yield error("space", f"{message}: submits are refused", cure)
    elif status.f_files and status.f_favail < MIN_FREE_FILES:
        yield error("space", f"{status.f_favail} inodes free: a job needs about ten", cure)
    elif free < 2 * settings.min_free:
        yield warning("space", message, cure)
    else:
        yield ok("space", message)


def check_clock(settings: Settings) -> Iterator[Finding]:
    """This host, the file system and the submitting hosts have the same time.

    The queue is sorted by it.
    """
    spool = Spool(settings.spool)
    with _probe(spool.staging) as path:
        path.touch()
        skew = path.stat().st_mtime - time.time()
    soon = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y%m%d-%H%M%S")
    early = sorted(name for name in os.listdir(spool.incoming) if is_id(name) and name > soon)
    if abs(skew) > MAX_SKEW_SECONDS:
        message = f"the file system's clock differs by {skew:+.1f} s from this host's"
        cure = "run chrony or systemd-timesyncd on this host and on the file server"
        yield warning("clock", message, cure)
    elif early:
        message = f"{len(early)} jobs wait with an id from the future, like {early[0]}"
        cure = "check `date -u` on every host that submits; these jobs come last until then"
        yield warning("clock", message, cure)
    else:
        yield ok("clock", datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
