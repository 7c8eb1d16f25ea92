"""What the type of a file system, and how it is mounted, mean for a queue.

docs/many-hosts.md has the table for people, and says which file systems were tried.
"""

from collections.abc import Iterator, Mapping

from i2ii_spool.host.filesystems import Mount, is_network, lock_cure
from i2ii_spool.ops.doctor.finding import Finding, error, ok, warning
from i2ii_spool.spool.maintenance import NETWORK_LEASE_SECONDS

MAX_NETWORK_DELAY_SECONDS = 30.0
"""For so long, a network file system may show an old heartbeat."""

MOVE = "move the spool (docs/operations.md), and set I2II_SPOOL"
LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs"}
IN_MEMORY = {"tmpfs", "ramfs"}
OVERLAYS = (
    *("overlay", "aufs", "unionfs", "fuse.unionfs", "fuse.mergerfs"),
    *("fuse-overlayfs", "fuse.fuse-overlayfs"),
)
OBJECT_STORES = (
    *("fuse.s3fs", "fuse.ossfs", "fuse.goofys", "fuse.mountpoint-s3"),
    *("fuse.rclone", "fuse.gcsfuse", "fuse.blobfuse", "fuse.blobfuse2"),
)
REFUSED = {
    **dict.fromkeys(OVERLAYS, "does not promise what a queue needs"),
    **dict.fromkeys(OBJECT_STORES, "keeps objects: it renames a folder file by file"),
    # Tried with two mounts: they share neither flock nor hard links.
    "fuse.seaweedfs": "does not share locks between its mounts",
}

# With it a host sees at once what another one did, and a file that another one replaces meanwhile.
# /proc/self/mountinfo does not show it.
TRIED_FUSE = {
    "fuse.juicefs": "mount it with --attr-cache 0 --entry-cache 0 --dir-entry-cache 0, and "
    "keep its trash (--trash-days 1)",
    "fuse.glusterfs": "mount it with attribute-timeout=0,entry-timeout=0, and "
    "gluster volume set VOLUME performance.stat-prefetch off",
    "fuse.mfs": "mount it with mfsattrcacheto=0,mfsentrycacheto=0,mfsdirentrycacheto=0",
}
UNTRIED_CURES = {
    "cifs": "prefer NFS 4.2; SMB may refuse to rename a folder of which a file is open",
    "smb3": "prefer NFS 4.2; SMB may refuse to rename a folder of which a file is open",
    "ceph": "mount it with recover_session=clean, and test it with two hosts",
    "lustre": "keep the spool on one MDT, and test it with two hosts",
}
LOCKS_OF_ONE_HOST = {"nolock": "", "localflock": "", "nobrl": "", "local_lock": "none"}
"""The mount options with which a lock holds on one host, and their value with which it does not."""
NFS_CACHE_SECONDS = 60.0


def judge(mount: Mount, *, lease: float) -> Iterator[Finding]:
    """Say whether a queue can rely on a mount, with a lease of so many seconds."""
    kind = mount.kind
    if kind in REFUSED:
        cure = f"{MOVE} to ext4 or xfs, or to a network file system of docs/many-hosts.md"
        yield error("file system", f"{kind} {REFUSED[kind]}", cure)
    elif kind in IN_MEMORY:
        message = f"{kind} is in memory: a reboot loses every job"
        yield warning("file system", message, f"{MOVE} to ext4 or xfs")
    elif kind in LOCAL:
        yield ok("file system", kind)
    elif is_network(kind):
        faults = [*_faults_of_kind(mount), *_faults_of_locks(mount), *_faults_of_lease(kind, lease)]
        message = f"{kind}: a worker of another host is dead after {lease:g} s without heartbeat"
        advice = f"; recommended: {TRIED_FUSE[kind]}" if kind in TRIED_FUSE else ""
        yield from faults or [ok("file system", message + advice)]
    else:
        yield warning("file system", f"{kind} has not been tried", f"{MOVE} to ext4 or xfs")


def _faults_of_kind(mount: Mount) -> Iterator[Finding]:
    if mount.kind in ("nfs", "nfs4"):
        yield from _faults_of_nfs(mount.options)
    elif mount.kind not in TRIED_FUSE:
        cure = UNTRIED_CURES.get(mount.kind, "test it with two hosts (docs/many-hosts.md)")
        yield warning("file system", f"{mount.kind} has not been tried", cure)


def _faults_of_nfs(options: Mapping[str, str]) -> Iterator[Finding]:
    if soft := {"soft", "softerr"} & options.keys():
        message = f"{soft.pop()}: while the server is away, calls fail and files end half written"
        yield error("file system", message, "mount it with hard")
    version = options.get("vers", "unknown")
    if version < "4.1":
        message = f"NFS {version} repeats a rename whose reply was lost, and says that it failed"
        yield warning("file system", message, "mount it with vers=4.2")
    if (seconds := _nfs_cache_seconds(options)) > 1:
        message = f"it may show for {seconds:g} s what was there before another host changed it"
        yield warning(
            "file system", message, "recommended: mount it with lookupcache=none,actimeo=1"
        )


def _nfs_cache_seconds(options: Mapping[str, str]) -> float:
    """For how many seconds a client may believe what it has cached of names and attributes."""
    if "noac" in options:
        return 0
    caches = [float(options.get(name, NFS_CACHE_SECONDS)) for name in ("acregmax", "acdirmax")]
    return max(caches) if options.get("lookupcache") == "none" else max(*caches, 2)


def _faults_of_locks(mount: Mount) -> Iterator[Finding]:
    for name, shared in LOCKS_OF_ONE_HOST.items():
        value = mount.options.get(name)
        if value is not None and (not shared or value != shared):
            option = f"{name}={value}" if value else name
            message = f"{option}: a lock holds on one host only; two hosts may deliver one webhook"
            yield warning("file system", message, lock_cure(mount.kind))


def _faults_of_lease(kind: str, lease: float) -> Iterator[Finding]:
    cure = f"set I2II_LEASE_SECONDS to {NETWORK_LEASE_SECONDS:g} or more, the same on every host"
    if lease < MAX_NETWORK_DELAY_SECONDS:
        delay = f"{MAX_NETWORK_DELAY_SECONDS:g}"
        message = f"{kind} may show a heartbeat {delay} s late, and the lease is {lease:g} s"
        yield error("file system", message, cure)
    elif lease < NETWORK_LEASE_SECONDS:
        message = (
            f"after an outage of {kind} a client may need longer than the lease, {lease:g} s, and "
            "so may a step"
        )
        yield warning("file system", message, cure)
