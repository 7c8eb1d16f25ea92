"""What the doctor says of a file system by its line in /proc/self/mountinfo."""

from pathlib import Path

import pytest

from i2ii_spool.host.filesystems import find_mount, is_network
from i2ii_spool.ops.doctor.finding import Verdict
from i2ii_spool.ops.doctor.mounts import judge

NFS = "nfs4 server:/export rw,vers=4.2,hard,proto=tcp,timeo=600,local_lock=none"
UNCACHED = f"{NFS},lookupcache=none,acregmin=1,acregmax=1,acdirmin=1,acdirmax=1"
MOOSE = r"fuse mfs\04310.77.0.1:9421 rw,user_id=0,group_id=0,allow_other"
JUICE = "fuse.juicefs JuiceFS:shared rw,user_id=0,default_permissions,allow_other"
GLUSTER = "fuse.glusterfs 10.77.0.1:shared rw,user_id=0,default_permissions,allow_other"


def found(mount: str, lease: float = 180) -> list[tuple[str, str, str]]:
    """What is said of it: the verdict, the message and the cure."""
    text = f"22 1 254:0 / / rw - ext4 /dev/root rw\n90 22 0:44 / /srv rw,relatime - {mount}\n"
    findings = judge(find_mount(text, Path("/srv/spool")), lease=lease)
    return [(str(each.verdict), each.message, each.cure or "") for each in findings]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (MOOSE, "fuse.mfs"),
        ("fuse mountpoint-s3 rw", "fuse.mountpoint-s3"),
        ("fuse bucket rw", "fuse"),
        (JUICE, "fuse.juicefs"),
        (NFS, "nfs4"),
    ],
)
def test_a_program_that_fuse_names_in_its_source_is_part_of_the_type(
    source: str, kind: str
) -> None:
    mount = find_mount(f"22 1 254:0 / / rw - {source}\n", Path("/srv"))
    assert mount.kind == kind
    assert is_network(mount.kind)


@pytest.mark.parametrize("mount", [UNCACHED, f"{NFS},noac", "xfs /dev/sdb rw"])
def test_a_mount_that_fits_is_well(mount: str) -> None:
    [(verdict, _, _)] = found(mount)
    assert verdict == Verdict.OK


@pytest.mark.parametrize(
    ("mount", "option"),
    [
        (MOOSE, "mfsentrycacheto=0"),
        (JUICE, "--entry-cache 0"),
        (GLUSTER, "performance.stat-prefetch off"),
    ],
)
def test_options_that_no_mount_shows_are_recommended(mount: str, option: str) -> None:
    [(verdict, message, _)] = found(mount)
    assert verdict == Verdict.OK
    assert option in message


@pytest.mark.parametrize(
    ("mount", "verdict", "says", "cure"),
    [
        (f"{UNCACHED},soft", "error", "soft: while the server is away", "mount it with hard"),
        (f"{UNCACHED},softerr", "error", "softerr: while the server", "mount it with hard"),
        (UNCACHED.replace("4.2", "3"), "warning", "NFS 3 repeats a rename", "vers=4.2"),
        (UNCACHED.replace("4.2", "4.0"), "warning", "NFS 4.0 repeats a rename", "vers=4.2"),
        (NFS, "warning", "for 60 s what was there", "lookupcache=none,actimeo=1"),
        (
            UNCACHED.replace("lookupcache=none", "lookupcache=all"),
            "warning",
            "for 2 s",
            "lookupcache=none",
        ),
        (
            UNCACHED.replace("local_lock=none", "local_lock=flock"),
            "warning",
            "local_lock=flock: a lock holds on one host only",
            "without local_lock",
        ),
        (
            f"{UNCACHED.replace('nfs4', 'nfs')},nolock",
            "warning",
            "nolock: a lock holds on one host only",
            "without nolock",
        ),
        ("lustre mds:/fs rw,localflock", "warning", "localflock: a lock holds", "-o flock"),
        ("lustre mds:/fs rw,flock", "warning", "lustre has not been tried", "two hosts"),
        ("cifs //server/share rw,nobrl", "warning", "nobrl: a lock holds", "without nobrl"),
        ("cifs //server/share rw", "warning", "cifs has not been tried", "NFS 4.2"),
        ("ceph mon:/ rw", "warning", "ceph has not been tried", "recover_session=clean"),
        ("beegfs beegfs rw", "warning", "beegfs has not been tried", "two hosts"),
        ("9p share rw", "warning", "9p has not been tried", "two hosts"),
        ("fuse.sshfs host:/ rw", "warning", "fuse.sshfs has not been tried", "two hosts"),
        ("fuse.s3fs s3fs rw", "error", "renames a folder file by file", "move the spool"),
        ("fuse.rclone remote: rw", "error", "renames a folder file by file", "move the spool"),
        ("fuse mountpoint-s3 rw", "error", "renames a folder file by file", "move the spool"),
        ("fuse.seaweedfs host rw", "error", "does not share locks", "move the spool"),
        ("overlay overlay rw", "error", "does not promise what a queue needs", "move the spool"),
        ("msdos /dev/sdb rw", "warning", "msdos has not been tried", "move the spool"),
    ],
)
def test_what_does_not_fit_is_named_with_its_cure(
    mount: str, verdict: str, says: str, cure: str
) -> None:
    [(_, _, named)] = [
        each for each in found(mount) if (each[0], says in each[1]) == (verdict, True)
    ]
    assert cure in named


@pytest.mark.parametrize("mount", [UNCACHED, MOOSE, JUICE, GLUSTER])
@pytest.mark.parametrize(("lease", "verdict"), [(29, "error"), (60, "warning"), (180, "ok")])
def test_the_lease_must_outlast_an_outage(mount: str, lease: float, verdict: str) -> None:
    [(seen, message, cure)] = found(mount, lease)
    assert seen == verdict
    assert f"{lease} s" in message
    assert verdict == "ok" or "set I2II_LEASE_SECONDS to 180 or more" in cure


def test_the_lease_means_nothing_on_one_host() -> None:
    assert [verdict for verdict, _, _ in found("xfs /dev/sdb rw", lease=1)] == ["ok"]
