"""A real systemd on a machine of its own, which boots in half a second: PID 1 of private
namespaces.

    with Machine(binds=["/some/folder:/opt/i2ii"]) as machine:
        machine.sh("systemctl start i2ii.target")
        machine.reboot()

Its root is an overlay of this machine's: what is written inside is thrown away with it. Its network
is its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.support import ROOT

INIT = Path(__file__).with_name("machine_init.sh")
NAMESPACES = ("--pid", "--mount", "--uts", "--ipc", "--cgroup", "--net")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
ENVIRONMENT |= {"SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
TOOLS = ("systemctl", "unshare", "nsenter", "setpriv", "ip", "ss", "useradd", "curl")

# The disk and the root outlive each boot, in a mount namespace that ends with this script: when its
# input closes.
KEEP_DISK = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 disk "$1"
mkdir "$1/upper" "$1/work" "$1/root" "$1/disk"
echo ready
read -r _
"""


def why_not() -> str | None:
    """Why there can be no machine here, or None."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not there"
    if os.geteuid() != 0:
        return "only root may make namespaces and cgroups"
    if not Path("/lib/systemd/systemd").exists():
        return "systemd is not installed"
    if not os.access("/sys/fs/cgroup", os.W_OK):
        return "cgroups may not be made"
    return None


class Machine:
    """It is up inside the `with`. `limits_memory` asks for the controllers that enforce
    `MemoryMax=`, where they are those of cgroup v1."""

    def __init__(self, binds: Sequence[str] = (), *, limits_memory: bool = False) -> None:
        self._binds = binds
        self._v1 = limits_memory and Path("/sys/fs/cgroup/memory/cgroup.procs").exists()
        self._pid = 0

    def __enter__(self) -> Self:
        self._folder = tempfile.mkdtemp(prefix="i2ii-machine-")
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", KEEP_DISK, "sh", self._folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "ready\n"
        try:
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid:
            self.cut_power()
        self._keeper.communicate("end\n")
        os.rmdir(self._folder)

    # --- power ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch it on, and wait until systemd is up."""
        self._cgroups = [
            own / f"i2ii-machine-{os.getpid()}-{time.monotonic_ns()}" for own in self._own_cgroups()
        ]
        for cgroup in self._cgroups:
            cgroup.mkdir()
            if cgroup.parent.parent.name == "cpuset" or (cgroup / "cpuset.cpus").exists():
                for name in (
                    "cpuset.cpus",
                    "cpuset.mems",
                ):  # a new one of version 1 has none, and takes no process
                    (cgroup / name).write_text((cgroup.parent / name).read_text())
        join = "".join(f"echo $$ > {cgroup}/cgroup.procs; " for cgroup in self._cgroups)
        mount = "lowerdir=/,upperdir=$1/upper,workdir=$1/work"
        mount = f'mountpoint -q "$1/root" || mount -t overlay overlay -o "{mount}" "$1/root"; '
        become = f"unshare --fork --kill-child {' '.join(NAMESPACES)} "
        become += f'bash {INIT} "$1/root" "$1/disk" "${{@:2}}"'
        self._init = subprocess.Popen(
            ["nsenter", "-t", str(self._keeper.pid), "-m", "bash", "-ec",
             f"{join}{mount}exec {become}", "bash", self._folder, *self._binds],
            env={**os.environ, "MACHINE_CGROUPS": "cgroup-v1" if self._v1 else ""},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._init.stdout is not None
        line = self._init.stdout.readline()
        assert line.startswith("pid "), line + self._init.stdout.read()
        self._pid = int(line.split()[1])
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + 30
        while not self._is_systemd():
            assert self._init.poll() is None, self._init.communicate()[0]
            assert time.monotonic() < deadline, "it did not become systemd"
            time.sleep(0.01)
        for cgroup in self._cgroups:  # the waiting process is no part of it
            (cgroup.parent / "cgroup.procs").write_text(str(self._init.pid))
        while (
            self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
            not in STATES
        ):
            assert time.monotonic() < deadline, "systemd is not up"
            time.sleep(0.02)

    def _is_systemd(self) -> bool:
        try:
            return Path(f"/proc/{self._pid}/comm").read_text() == "systemd\n"
        except FileNotFoundError:
            return False

    def _own_cgroups(self) -> list[Path]:
        """The cgroups of this process, in the hierarchies that the machine is to have."""
        mine = {}
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            mine["cgroup2" if number == "0" else controllers] = path
        found = {}
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mount, kind, options, *_ = line.split()
            for controllers, path in mine.items():
                is_it = (
                    kind == "cgroup2"
                    if controllers == "cgroup2"
                    else controllers in options.split(",")
                )
                if is_it and kind.startswith("cgroup") and (kind == "cgroup2" or self._v1):
                    found.setdefault(controllers, Path(mount + path))
        return list(found.values())

    def cut_power(self) -> None:
        """Kill every process: the kernel ends a PID namespace with its first process."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._pid = 0
        self._init.wait()
        if self._init.stdout is not None:
            self._init.stdout.close()
        for cgroup in self._cgroups:
            self._remove(cgroup)

    @staticmethod
    def _remove(cgroup: Path) -> None:
        deadline = time.monotonic() + 10
        while cgroup.exists():
            try:
                for folder, _, _ in os.walk(cgroup, topdown=False):
                    os.rmdir(folder)
            except OSError:
                assert time.monotonic() < deadline, f"{cgroup} is busy"
                time.sleep(0.01)

    def reboot(self) -> None:
        """Cut the power, and switch it on again: only what was on the disk is there."""
        self.cut_power()
        self.boot()

    # --- what is done inside ----------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs these arguments inside."""
        return [
            "nsenter",
            "-t",
            str(self._pid),
            "-m",
            "-p",
            "-u",
            "-i",
            "-C",
            "-n",
            "-r",
            "-w",
            "--",
            *arguments,
        ]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside; what it prints to either stream is its `stdout`."""
        done = subprocess.run(
            self.command(*arguments), env=ENVIRONMENT, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, (
            f"{arguments} ended with {done.returncode}:\n{done.stdout}"
        )
        return done

    def sh(self, script: str) -> str:
        """Run a shell script inside; return what it prints."""
        return self.run("sh", "-ec", script).stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """The journal's records that match, with their fields."""
        return [
            json.loads(line)
            for line in self.run("journalctl", "-o", "json", *matches).stdout.splitlines()
        ]

    def path(self, inside: str) -> Path:
        """A file inside, as seen from here."""
        return Path(f"/proc/{self._pid}/root{inside}")


STATES = ("running", "degraded")


def _not_ours(folder: str, names: list[str]) -> set[str]:
    """What of the tree is not tracked by git, such as the spool and the environment."""
    at_top = {"spool", "build"} if Path(folder) == ROOT else set()
    return {
        name
        for name in names
        if name.startswith(".") or name.endswith(".egg-info") or name in at_top
    }


def build_wheel(source: Path, version: str | None = None) -> Path:
    """Build a wheel of this tree, of another version if that is asked for."""
    shutil.copytree(ROOT, source, symlinks=True, ignore=_not_ours)
    if version is not None:
        (source / "i2ii_spool/__init__.py").write_text(f'__version__ = "{version}"\n')
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", source / "wheel", source],
        check=True,
    )
    return next((source / "wheel").glob("*.whl"))
