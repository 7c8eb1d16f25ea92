"""Which file system a path is on, and whether other hosts share it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NETWORK = re.compile(
    r"nfs4?|cifs|smb3|lustre|beegfs|ceph|9p|virtiofs|glusterfs|gpfs|afs"
    r"|fuse(\.(?!unionfs|mergerfs).*)?"
)
_LOCK_CURES = {
    "nfs": "mount it without nolock and local_lock, as NFS 4.1 or later",
    "nfs4": "mount it without local_lock, as NFS 4.1 or later",
    "lustre": "mount it with -o flock on every host",
    "beegfs": "set tuneUseGlobalFileLocks = true on every host",
    "cifs": "mount it without nobrl",
    "smb3": "mount it without nobrl",
}


@dataclass(frozen=True)
class Mount:
    """A mounted file system."""

    kind: str
    """Its type: `ext4`, `nfs4`, `fuse.juicefs`."""
    options: Mapping[str, str]
    """Its mount options by name: `{"vers": "4.2", "soft": ""}`."""


def is_network(file_system: str) -> bool:
    """Whether a file system of this type is one that hosts share over a network."""
    return _NETWORK.fullmatch(file_system) is not None


def lock_cure(file_system: str) -> str:
    """Return what makes flock(2) work on a file system of this type."""
    return _LOCK_CURES.get(file_system, "mount it with locks, or move the spool to another one")


def file_system_of(path: Path) -> str:
    """Return the type of the file system of a path: `ext4`, `nfs4`."""
    return mount_of(path).kind


def mount_of(path: Path) -> Mount:
    """Return the mount that a path lies on."""
    mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return find_mount(mountinfo, path.resolve())


def find_mount(mountinfo: str, path: Path) -> Mount:
    """Return the mount that `path` lies on, by the text of /proc/self/mountinfo."""
    found = Mount("unknown", {})
    longest = -1
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        name, options = before.split()[4:6]
        point = Path(unescaped(name))
        # Of two mounts on one point, the later hides the earlier.
        if path.is_relative_to(point) and len(point.parts) >= longest:
            kind, source, *more = after.split()
            longest = len(point.parts)
            found = Mount(_full_kind(kind, source), _parse(",".join([options, *more])))
    return found


def unescaped(field: str) -> str:
    """Return a field of mountinfo as it was (proc_pid_mountinfo(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _full_kind(kind: str, source: str) -> str:
    """The type with the name of the program, where a FUSE file system has it before its source."""
    program, mark, _ = unescaped(source).partition("#")
    if kind == "fuse" and (mark or program == "mountpoint-s3"):
        return f"fuse.{program}"
    return kind


def _parse(options: str) -> dict[str, str]:
    pairs = (option.partition("=") for option in options.split(","))
    return {name: value for name, _, value in pairs}
