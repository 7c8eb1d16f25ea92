"""Checks of the spool: can a queue rely on these folders and their file system?"""

import fcntl
import grp
import os
import pwd
import re
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from i2ii_spool.jobs.ids import is_id
from i2ii_spool.ops.doctor.finding import Finding, error, ok, warning
from i2ii_spool.settings import Settings
from i2ii_spool.spool.capacity import free_bytes
from i2ii_spool.spool.durable_io import move, write_file
from i2ii_spool.spool.layout import FOLDER_MODE, Spool

MIB = 2**20
MAX_SKEW_SECONDS = 2.0
MAX_NETWORK_DELAY_SECONDS = 30.0
"""For so long, a network file system may show an old heartbeat."""
MIN_FREE_FILES = 1000

LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs"}
OVERLAYS = {
    "overlay",
    "aufs",
    "unionfs",
    "fuse.unionfs",
    "fuse.mergerfs",
    "fuse-overlayfs",
    "fuse.fuse-overlayfs",
}
IN_MEMORY = {"tmpfs", "ramfs"}
# Tried with two mounts: they share neither flock nor hard links.
WITHOUT_LOCKS = {"fuse.seaweedfs"}
NETWORK = re.compile(
    r"nfs4?|cifs|smb3|lustre|beegfs|ceph|9p|virtiofs|glusterfs|gpfs|afs"
    r"|fuse\.(?!unionfs|mergerfs).*"
)


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
        user = pwd.getpwuid(os.geteuid()).pw_name
        group = _owner(spool.root)[1]
        cure = f"usermod -aG {group} {user}, and log in again"
        yield error("writing", f"{user} cannot write: {problem}", cure)
    else:
        yield ok("writing", "a file can be written, synced and moved")


def check_file_system(settings: Settings) -> Iterator[Finding]:
    """The type of the file system is one that a queue can rely on."""
    mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    name = file_system_type(mountinfo, Spool(settings.spool).root.resolve())
    lease = settings.lease_seconds
    move_it = "move the spool (docs/operations.md), and set I2II_SPOOL"
    if name in OVERLAYS:
        message = f"{name} does not promise what a queue needs"
        yield error("file system", message, f"{move_it} to ext4 or xfs")
    elif name in WITHOUT_LOCKS:
        message = f"{name} does not share locks between its mounts"
        yield error("file system", message, f"{move_it} to another one")
    elif name in IN_MEMORY:
        message = f"{name} is in memory: a reboot loses every job"
        yield warning("file system", message, f"{move_it} to ext4 or xfs")
    elif NETWORK.fullmatch(name) and lease < MAX_NETWORK_DELAY_SECONDS:
        delay = f"{MAX_NETWORK_DELAY_SECONDS:.0f}"
        message = f"{name} may show a heartbeat {delay} s late, and the lease is {lease:.0f} s"
        cure = f"set I2II_LEASE_SECONDS to more than {delay}, on every host"
        yield error("file system", message, cure)
    elif NETWORK.fullmatch(name):
        message = f"{name}: a worker of another host is dead after {lease:.0f} s without heartbeat"
        cure = "keep I2II_LEASE_SECONDS the same on every host, and their clocks synchronised"
        yield warning("file system", message, cure)
    elif name in LOCAL:
        yield ok("file system", name)
    else:
        yield warning("file system", f"{name} has not been tried", f"{move_it} to ext4 or xfs")


def file_system_type(mountinfo: str, path: Path) -> str:
    """Return the type of the file system of `path`, by the text of /proc/self/mountinfo."""
    found = "unknown"
    longest = -1
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), before.split()[4]))
        # Of two mounts on one point, the later hides the earlier.
        if path.is_relative_to(point) and len(point.parts) >= longest:
            longest, found = len(point.parts), after.split()[0]
    return found


def check_locks(settings: Settings) -> Iterator[Finding]:
    """A lock that one process holds keeps another process out."""
    with _probe(Spool(settings.spool).locks) as path, path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        script = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        other = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, timeout=20, check=False
        )
    if other.returncode == 0:
        yield error(
            "locks",
            "two processes hold the same lock: two workers could run under one name",
            "mount the file system with locks (NFS: without nolock), or move the spool",
        )
    else:
        yield ok("locks", "a lock keeps a second process out")


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
