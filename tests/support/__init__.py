"""What the lanes share.

service           processes of the service, and the `i2ii` command: `Service`, `cli`, `wait_until`
http              requests to a server over one connection: `ask`, `post`, `form`, `error_of`
raw_http          a socket for requests that no client library sends: `Wire`
app               the server in the test's loop, a worker by hand: `check_error`, `HandWorker`
jobs              jobs moved on through the spool package: `claim_next`, `finish`
guests            folders that a person puts into the spool: `make_guest`, `shell`
pictures          pictures to send: `make_picture`
hostile_pictures  small files that would be large, slow or strange: `REFUSED`, `TAKEN`
stub_engines      engines that are slow or break on purpose, as the script of a worker
seams             every place where a test replaces a part of i2ii
scenarios         what may happen to a job, with one point to interrupt: `begin`, `end`
promises          what must hold after an interruption: `Promises`, `check`
recording_disk    records each system call that changes a file system: `RecordingDisk`
power_loss        the states that a disk may hold after a power loss: `History`
disks             a mounted ext4 of a few MiB: `MountedDisk`
machine           a booted systemd in namespaces: `Machine`
hosts             two hosts and the folder that they share: `Host`, `SharedFolder`
uml               a kernel as a process, with an NFS server and two clients: `run_with_nfs`
fuse              file systems that are processes, with two mounts: `FuseFolder`, `Servers`
juicefs           JuiceFS, with its metadata in Redis: `JuiceFolder`
gluster           GlusterFS: `GlusterFolder`
moosefs           MooseFS: `MooseFolder`
kubernetes        what deploy/kubernetes describes: `pods`, `environment`
kubernetes_tools  kubectl, and what the schemas say of its output: `build`, `faults`
slurm             a real Slurm of four nodes, in namespaces: `Cluster`
chaos             processes that are killed and started again: `ProcessGroup`
storm_clients     clients that check every answer: `Client`, `Ledger`
"""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
FAKE_DRIVER = TESTS / "support/fake_driver"
"""The folder of a `pynvml` for `PYTHONPATH`; `FAKE_GPUS` describes its cards."""
STUB_ENGINES = str(TESTS / "support/stub_engines.py")
"""The script of a worker: `python STUB_ENGINES ENGINE UNIT [--burst]`."""

UNKNOWN_ID = "20200101-000000-000-aaaaaa"
"""The id of a job that never was."""


def filled(path: str, id: str = UNKNOWN_ID) -> str:
    """Return the path of a route with these names in it; without an id, of things that are not."""
    return path.replace("{id}", id).replace("{digest}", "0" * 16).replace("{name}", "nothing.js")
