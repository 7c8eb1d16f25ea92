"""Whether the spool lies where a queue can lie."""

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
SKEW = 2.0
LEAST_LEASE = 30.0
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
# WorkerView on two mounts: flock and hard links are not shared (the README of the protocol says
# what it rests on).
WITHOUT_LOCKS = {"fuse.seaweedfs"}
NETWORK = re.compile(
    r"nfs4?|cifs|smb3|lustre|beegfs|ceph|9p|virtiofs|glusterfs|gpfs|afs|fuse\.(?!unionfs|mergerfs).*"
)


def folders(settings: Settings) -> Iterator[Finding]:
    """The spool is there, and whole."""
    spool = Spool(settings.spool)
    expected = spool.folders() if spool.root.is_dir() else [spool.root]
    missing = [str(folder) for folder in expected if not folder.is_dir()]
    if missing:
        cure = "`i2ii serve`, `i2ii gpu` and `i2ii up` make what is missing; or name another spool with I2II_SPOOL"
        yield error("spool", f"not there: {', '.join(missing)}", cure)
        return
    device = spool.root.stat().st_dev
    apart = [str(folder) for folder in spool.folders() if folder.stat().st_dev != device]
    if apart:
        yield error(
            "spool",
            f"on another file system than {spool.root}: {', '.join(apart)}",
            f"umount {apart[0]}",
        )
    else:
        yield ok("spool", str(spool.root))


def ownership(settings: Settings) -> Iterator[Finding]:
    """Every folder belongs to one user and one group, which may write; nobody else may look."""
    spool = Spool(settings.spool)
    owner, group = _owner(spool.root)
    wrong = [
        folder
        for folder in spool.folders()
        if _owner(folder) != (owner, group) or stat.S_IMODE(folder.stat().st_mode) != FOLDER_MODE
    ]
    if (
        spool.root.stat().st_mode & stat.S_IWOTH
    ):  # it may be looked at: it holds no names but those of the states
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
    except KeyError:  # of another host
        return str(status.st_uid), str(status.st_gid)


@contextmanager
def _probe(folder: Path) -> Iterator[Path]:
    path = folder / f".doctor-{secrets.token_hex(4)}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def writing(settings: Settings) -> Iterator[Finding]:
    """A file can be made durable and moved from state to state."""
    spool = Spool(settings.spool)
    try:
        with _probe(spool.staging) as here, _probe(spool.done) as there:
            write_file(here, b"probe")
            move(here, there)
    except OSError as problem:
        who = pwd.getpwuid(os.geteuid()).pw_name
        group = _owner(spool.root)[1]
        yield error(
            "writing",
            f"{who} cannot write: {problem}",
            f"usermod -aG {group} {who}, and log in again",
        )
    else:
        yield ok("writing", "a file can be written, synced and moved")


def kind(settings: Settings) -> Iterator[Finding]:
    """The file system is one that a queue can rest on."""
    name = mounted(Path("/proc/self/mountinfo").read_text(), Spool(settings.spool).root.resolve())
    move_it = "move the spool (docs/operations.md), and set I2II_SPOOL"
    if name in OVERLAYS:
        yield error(
            "file system",
            f"{name} does not promise what a queue needs",
            f"{move_it} to ext4 or xfs",
        )
    elif name in WITHOUT_LOCKS:
        yield error(
            "file system",
            f"{name} does not share locks between its mounts",
            f"{move_it} to another one",
        )
    elif name in IN_MEMORY:
        yield warning(
            "file system",
            f"{name} lies in memory: a reboot loses every job",
            f"{move_it} to ext4 or xfs",
        )
    elif NETWORK.fullmatch(name):
        yield from _network(name, settings.lease_seconds)
    elif name in LOCAL:
        yield ok("file system", name)
    else:
        yield warning("file system", f"{name} has not been tried", f"{move_it} to ext4 or xfs")


def _network(name: str, lease: float) -> Iterator[Finding]:
    if lease < LEAST_LEASE:
        message = (
            f"{name} may show a heartbeat {LEAST_LEASE:.0f} s late, and the lease is {lease:.0f} s"
        )
        yield error(
            "file system",
            message,
            f"set I2II_LEASE_SECONDS to more than {LEAST_LEASE:.0f}, on every host",
        )
    else:
        message = f"{name}: hosts know one another by heartbeats, and take one for dead after {lease:.0f} s"
        yield warning(
            "file system",
            message,
            "keep I2II_LEASE_SECONDS the same on every host, and their clocks in step",
        )


def mounted(mountinfo: str, path: Path) -> str:
    """Return the kind of the file system that `path` lies on, by the text of /proc/self/mountinfo."""
    found = "unknown"
    longest = -1
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), before.split()[4]))
        if (
            path.is_relative_to(point) and len(point.parts) >= longest
        ):  # of two on one point, the later lies above
            longest, found = len(point.parts), after.split()[0]
    return found


def locks(settings: Settings) -> Iterator[Finding]:
    """A lock that one process holds is seen by another."""
    with _probe(Spool(settings.spool).locks) as path, path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        script = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        other = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, timeout=20, check=False
        )
    if other.returncode == 0:
        cure = "mount the file system with locks (NFS: without nolock), or move the spool"
        yield error(
            "locks", "two processes hold the same lock: two workers could live under one name", cure
        )
    else:
        yield ok("locks", "a lock keeps a second process out")


def space(settings: Settings) -> Iterator[Finding]:
    """There is room for more than the floor, and for more files."""
    spool = Spool(settings.spool)
    free = free_bytes(spool)
    status = os.statvfs(spool.root)
    cure = "i2ii gc --keep-days 7, or a larger disk"
    message = f"{free / MIB:.0f} MiB free, floor {settings.min_free_mib:.0f} MiB"
    if free < settings.min_free:
        yield error("space", f"{message}: submits are refused", cure)
    elif status.f_files and status.f_favail < 1000:
        yield error("space", f"{status.f_favail} inodes free: a job needs about ten", cure)
    elif free < 2 * settings.min_free:
        yield warning("space", message, cure)
    else:
        yield ok("space", message)


def clock(settings: Settings) -> Iterator[Finding]:
    """Our clock, the file system's and that of those who submitted agree: the queue's order is that
    of clocks."""
    spool = Spool(settings.spool)
    with _probe(spool.staging) as path:
        path.touch()
        skew = path.stat().st_mtime - time.time()
    soon = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y%m%d-%H%M%S")
    early = sorted(name for name in os.listdir(spool.incoming) if is_id(name) and name > soon)
    if abs(skew) > SKEW:
        cure = "run chrony or systemd-timesyncd on this host and on the file server"
        yield warning("clock", f"the file system's clock differs by {skew:+.1f} s from ours", cure)
    elif early:
        cure = "check `date -u` on every host that submits; these jobs come last until then"
        yield warning(
            "clock", f"{len(early)} jobs wait that come from the future, like {early[0]}", cure
        )
    else:
        yield ok("clock", datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
