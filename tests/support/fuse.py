"""File systems that run as ordinary processes, with two mounts each: two hosts.

    with MooseFolder(tmp_path) as shared: ...

Their servers run in a network of their own, which ends with the test. The mounts are in this
machine's name space: the tests' process sees them. They are mounted without caches of names and
attributes, as docs/many-hosts.md recommends: a kernel's cache of FUSE is believed for a second, and
no call but a listing makes it look again.
"""

import os
import shutil
import signal
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from tests.support.hosts import Host, SharedFolder, as_host
from tests.support.service import wait_until

ADDRESS = "10.77.0.1"
"""Of the servers, in their own network: some refuse to listen on a loopback address."""
IN_OWN_NETWORK = """
ip link set lo up
ip address add $0/32 dev lo
mount --make-rprivate /
mount -t proc proc /proc
exec "$@"
"""


def why_not_mount(*programs: str) -> str | None:
    """Why no file system of these programs can be mounted here, or None."""
    missing = [
        name
        for name in (*programs, "ip", "nsenter", "unshare", "mount")
        if shutil.which(name) is None
    ]
    if missing:
        return f"{', '.join(missing)} is not there"
    if os.geteuid() != 0:
        return "it has a network of its own, which takes root"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    return None


class Servers:
    """The processes of a file system's servers, with a network and process ids of their own.

    All of them end when the first one does.
    """

    def __init__(self, log: Path, *command: str) -> None:
        self._log = log
        self._first = self._start(
            *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"),
            *("sh", "-ec", IN_OWN_NETWORK, ADDRESS, *command),
        )
        wait_until(lambda: self.run("ip", "address").stdout.count(ADDRESS))

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a process that reaches the servers, such as a mount."""
        return self._start("nsenter", f"--net=/proc/{self._first.pid}/ns/net", *command)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command among the servers."""
        ns = f"/proc/{self._first.pid}/ns"
        enter = (f"--net={ns}/net", f"--mount={ns}/mnt", f"--pid={ns}/pid_for_children")
        return subprocess.run(
            ["nsenter", *enter, *command], capture_output=True, text=True, timeout=60
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to each of them."""
        ours = os.readlink(f"/proc/{self._first.pid}/ns/pid_for_children")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is closed even to root
                if os.readlink(process / "ns/pid") == ours:
                    os.kill(int(process.name), number)

    def end(self) -> None:
        """Kill them."""
        self._first.kill()
        self._first.wait()

    def read_log(self) -> str:
        return self._log.read_text(errors="replace")


class FuseFolder(SharedFolder):
    """A folder on a file system of `kind`, served by `Servers`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        one, two = (Host(name, folder / name, tuple(as_host(name))) for name in ("h1", "h2"))
        self.hosts = one, two

    def _serve(self) -> tuple[str, ...]:
        """The command of the servers."""
        raise NotImplementedError

    def _prepare(self, servers: Servers) -> None:
        """Make the file system, once the servers answer."""

    def _mount(self, host: Host) -> tuple[str, ...]:
        """The command that mounts the file system at the host's path, and runs until it is
        unmounted."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._servers = Servers(self._folder / "log", *self._serve())
            stack.callback(self._servers.end)
            self._prepare(self._servers)
            for host in self.hosts:
                host.path.mkdir()
                process = self._servers.start(*self._mount(host))
                stack.callback(_unmount, host.path, process)
                wait_until(lambda host=host, process=process: self._is_mounted(host, process))
            self._stack = stack.pop_all()
        return self

    def _is_mounted(self, host: Host, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self._servers.read_log()
        return host.path.is_mount()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stop_server(self) -> None:
        self._servers.signal(signal.SIGSTOP)

    def start_server(self) -> None:
        self._servers.signal(signal.SIGCONT)


def _unmount(path: Path, process: subprocess.Popen[bytes]) -> None:
    subprocess.run(["umount", "--lazy", path], check=False)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def checked(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a command has printed; it has succeeded."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
