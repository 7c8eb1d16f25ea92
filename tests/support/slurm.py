"""A real Slurm of four nodes on this machine, with two made-up GPUs each.

    with Cluster(service) as cluster:
        job = cluster.sbatch("--array=0-3", engine="slow")
        cluster.run("scancel", "--batch", "--signal=USR1", job)
        cluster.kill_node("node0")

A node is a slurmd in namespaces of its own: it has its own host name, and its processes, those of
its jobs among them, end with it as those of a computer that loses its power. No file of the system
is touched: key, ports, configuration and logs are this cluster's own. Where the kernel has the
controller for it (cgroup v1), each task may open its own GPU alone, as with `ConstrainDevices=yes`
on a real cluster.
"""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.support import FAKE_DRIVER, ROOT, STUB_ENGINES
from tests.support.service import Service, wait_until

SCRIPT = ROOT / "slurm/i2ii.sbatch"
NODES = ("node0", "node1", "node2", "node3")
GPUS_PER_NODE = 2
NVIDIA = 195
"""The major number of its device files."""
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "unshare")
DEVICES = Path("/sys/fs/cgroup/devices")
CONSTRAINS = os.access(DEVICES / "cgroup.procs", os.W_OK)
"""Whether Slurm can keep the device files of one task from another here."""
KILL_WAIT = 2
"""Seconds between the SIGTERM and the SIGKILL of a plain scancel."""

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/slurmd-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/{task_plugin}
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
# Without the pauses that spare a large cluster.
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=6
KillWait={kill_wait}
MinJobAge=300
JobRequeue=1
RequeueExit=75
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[0-1] {node} Port={ports[0]},{ports[1]} Gres=gpu:h200:{gpus}
NodeName=node[2-3] {node} Port={ports[2]},{ports[3]} Gres=gpu:a100:{gpus}
PartitionName=gpu Nodes=ALL Default=YES PriorityTier=1
PartitionName=patient Nodes=ALL PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""

# Workers are named by the host's name. slurmd makes its cgroups at the top of the hierarchy: it is
# shown a part of it that is its own.
BOOT = """
hostname "$1"
[ -z "$2" ] || mount --bind "$2" "$3"
exec slurmd -D -N "$1"
"""


COMMAND = """#!/bin/sh
[ -z "$TEST_ENGINE" ] || {{ shift; exec {python} {stub_engines} "$TEST_ENGINE" "$@"; }}
exec {python} -m i2ii_spool "$@"
"""


def why_not() -> str | None:
    """Why there can be no cluster here, or None."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not there"
    if os.geteuid() != 0:
        return "only root may make namespaces and device files"
    return None


class Cluster:
    """It is up inside the `with`. Its nodes share the spool of the service; jobs log where that
    does."""

    def __init__(self, service: Service) -> None:
        # slurmstepd listens on a socket in it, whose path may have 107 bytes: not in a test's own.
        self._root = Path(tempfile.mkdtemp(prefix="slurm"))
        self._log = service.log
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **service.environment,
            "SLURM_CONF": str(self._root / "slurm.conf"),
            "I2II_COMMAND": str(self._root / "i2ii"),
            "PYTHONPATH": f"{FAKE_DRIVER}:{ROOT}",
            "FAKE_GPUS": json.dumps(
                [
                    {"minor": minor, "uuid": f"GPU-{minor:08x}", "file": str(self._device(minor))}
                    for minor in range(GPUS_PER_NODE)
                ]
            ),
        }

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._root, ignore_errors=True)
            self._configure()
            stack.callback(self._remove_cgroups)
            self._start(stack, "munged", "-F", f"--key-file={self._root}/munge.key",
                        f"--socket={self._root}/munge.sock", f"--pid-file={self._root}/munged.pid",
                        f"--log-file={self._root}/munged.log",
                        f"--seed-file={self._root}/munged.seed", "--force")  # fmt: skip
            wait_until(lambda: (self._root / "munge.sock").exists())
            self._start(stack, "slurmctld", "-D", "-c")
            stack.callback(self._kill_nodes)
            for node in NODES:
                self.start_node(node)
            wait_until(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D") == "4")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _configure(self) -> None:
        self._root.chmod(0o755)
        (self._root / "state").mkdir()
        command = self._root / "i2ii"
        command.write_text(COMMAND.format(python=sys.executable, stub_engines=STUB_ENGINES))
        command.chmod(0o755)
        for minor in range(GPUS_PER_NODE):
            os.mknod(self._device(minor), 0o666 | stat.S_IFCHR, os.makedev(NVIDIA, minor))
        key = self._root / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(os.urandom(128))
        host = socket.gethostname().partition(".")[0]
        controller_port, *ports = _free_ports(1 + len(NODES))
        (self._root / "slurm.conf").write_text(
            CONFIG.format(
                root=self._root,
                host=host,
                controller_port=controller_port,
                ports=ports,
                gpus=GPUS_PER_NODE,
                kill_wait=KILL_WAIT,
                node=f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000",
                task_plugin="cgroup" if CONSTRAINS else "none",
            )
        )
        (self._root / "gres.conf").write_text(
            "".join(
                f"NodeName={nodes} Name=gpu Type={model} "
                f"File={self._root}/nvidia[0-{GPUS_PER_NODE - 1}]\n"
                for nodes, model in (("node[0-1]", "h200"), ("node[2-3]", "a100"))
            )
        )
        (self._root / "cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\nConstrainDevices=yes\nConstrainCores=no\n"
            "ConstrainRAMSpace=no\n"
        )

    def _device(self, minor: int) -> Path:
        return self._root / f"nvidia{minor}"

    def _start(self, stack: ExitStack, *command: str) -> None:
        with (self._root / f"{command[0]}.out").open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)

    # --- nodes ------------------------------------------------------------------------------------

    def start_node(self, node: str) -> None:
        """Switch a node on."""
        cgroup = self._cgroup(node) if CONSTRAINS else ""
        if cgroup:
            Path(cgroup).mkdir(exist_ok=True)
        (self._root / f"slurmd-{node}").mkdir(exist_ok=True)
        with (self._root / f"slurmd-{node}.out").open("ab") as log:
            self._nodes[node] = subprocess.Popen(
                ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                 "sh", "-ec", BOOT, "sh", node, cgroup, DEVICES],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def kill_node(self, node: str) -> None:
        """Cut a node's power: the kernel ends a PID namespace with its first process."""
        process = self._nodes.pop(node)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for init in children.read_text().split():
            os.kill(int(init), signal.SIGKILL)
        process.wait(30)

    def report_down(self, node: str) -> None:
        """Tell Slurm what it would find out by itself after `SlurmdTimeout` and more."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")

    def _kill_nodes(self) -> None:
        for node in list(self._nodes):
            self.kill_node(node)

    def _cgroup(self, node: str) -> str:
        return str(DEVICES / f"i2ii-slurm-{os.getpid()}-{node}")

    def _remove_cgroups(self) -> None:
        for node in NODES:
            for folder, _, _ in os.walk(self._cgroup(node), topdown=False):
                wait_until(lambda folder=folder: _rmdir(folder))

    # --- jobs -------------------------------------------------------------------------------------

    def run(self, *command: str, **variables: str) -> str:
        """Run a command of Slurm, with these in its environment; return what it prints."""
        done = subprocess.run(
            command, env={**self.environment, **variables}, cwd=self._root, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def sbatch(self, *options: str, engine: str = "", **settings: str) -> str:
        """Submit the script, for the CPUs and the memory of these nodes; return the job's id.

        `engine` names one of `stub_engines`, else classic works.
        """
        variables = {f"I2II_{name.upper()}": value for name, value in settings.items()}
        size = ("--cpus-per-task=1", "--mem-per-cpu=100", f"--output={self._log}")
        return self.run(
            *("sbatch", "--parsable", *size, *options, str(SCRIPT)),
            **variables,
            TEST_ENGINE=engine,
        )

    def shown(self, job: str, name: str) -> str:
        """A property of a job, as `scontrol show job` names it."""
        shown = self.run("scontrol", "show", "job", job)
        found = re.search(rf"\b{name}=(\S*)", shown)
        assert found is not None, shown
        return found[1]

    def wait_state(self, job: str, *states: str, seconds: float = 30) -> None:
        wait_until(lambda: self.shown(job, "JobState") in states, seconds=seconds)


def _rmdir(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except OSError:  # the kernel is not done with its last process
        return False
    return True


def _free_ports(count: int) -> Sequence[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
