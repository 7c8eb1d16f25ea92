"""A Linux kernel as an ordinary process, User-Mode Linux, with an NFSv4.2 server and two clients.

    packages = fetch_packages(folder)
    ended = run_with_nfs(packages, folder, "python", "-m", "pytest", "--shared=nfs", "tests/shared")
    assert ended.code == 0, ended.output

Its root is this machine's, and what is written inside is thrown away. Nothing is installed: the
kernel and the programs of NFS are Debian packages that are unpacked.
`NfsFolder` is what the tests see inside.
"""

import os
import platform
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT
from tests.support.disks import MEMORY
from tests.support.hosts import Host, SharedFolder
from tests.support.service import wait_until

INIT = Path(__file__).with_name("uml_init.sh")
REGISTERS = Path(__file__).with_name("uml_registers.c")
PACKAGES = (
    *("user-mode-linux", "nfs-kernel-server", "nfs-common", "kmod", "keyutils"),
    *("libwrap0", "libnfsidmap1", "libtirpc3", "libevent-core-2.1-7"),
)
TOOLS = ("apt-get", "apt-cache", "dpkg", "gcc", "mkfs.ext4", "ip", "nsenter", "unshare", "chroot")
MEMORY_MIB, DISK_MIB = 2048, 2048
"""What it may have at most; both are sparse."""


def why_not() -> str | None:
    """Why there can be no such kernel here, or None."""
    if platform.machine() != "x86_64":
        return "user-mode-linux is there for x86_64"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not there"
    if os.geteuid() != 0:
        return "it has the files of this machine as its own, which takes root"
    known = subprocess.run(["apt-cache", "show", "user-mode-linux"], capture_output=True)
    if known.returncode != 0:
        return "apt-get knows no package user-mode-linux"
    return None


def fetch_packages(folder: Path) -> Path:
    """Download the packages, 41 MB, and unpack them; return where they are."""
    downloads, packages = folder / "downloads", folder / "packages"
    downloads.mkdir()
    done = subprocess.run(
        ["apt-get", "download", *PACKAGES], cwd=downloads, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for package in downloads.iterdir():
        subprocess.run(["dpkg", "-x", package, packages], check=True)
    shutil.rmtree(downloads)
    return packages


@dataclass(frozen=True)
class Ended:
    """What has become of a command that ran inside."""

    code: int | None
    """Its exit code; None if the kernel ended before it did."""
    output: str
    """What it has printed; behind it what the kernel and its first process have, if it failed."""


def run_with_nfs(
    packages: Path, folder: Path, *command: str, mount_options: str = "", seconds: float
) -> Ended:
    """Boot the kernel, run the command in the root of this tree, and switch the kernel off.

    Both clients mount with the options; without any, as the kernel does by default. `folder` is for
    what it needs and leaves.
    """
    disk, out = folder / "disk", folder / "out"
    out.mkdir(parents=True)
    with disk.open("wb") as file:
        file.truncate(DISK_MIB * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    registers = folder / "registers.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", registers, REGISTERS], check=True)
    variables = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    variables |= {name: os.environ[name] for name in ("CI",) if name in os.environ}
    words = [*(f"{name}={value}" for name, value in variables.items()), *command]
    (out / "job").write_text(f"cd {shlex.quote(str(ROOT))} && exec env {shlex.join(words)}\n")
    console = _boot(packages, registers, disk, out, mount_options, seconds)
    disk.unlink()
    output = _read(out / "output")
    if not (out / "code").exists():
        return Ended(None, f"{output}\n{_read(out / 'boot')}\n{console}")
    return Ended(int(_read(out / "code")), output)


def _boot(
    packages: Path, registers: Path, disk: Path, out: Path, mount_options: str, seconds: float
) -> str:
    """Run the kernel until it switches itself off; return what it has printed."""
    memory = MEMORY if MEMORY.is_dir() else out
    kernel = subprocess.Popen(
        [
            packages / "usr/bin/linux.uml",
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"ubda={disk}"),
            *(f"mem={MEMORY_MIB}M", "con=null", "con0=null,fd:1", "quiet"),
            *(f"PACKAGES={packages}", f"OUT={out}", f"MOUNT_OPTIONS={mount_options}"),
            *("init=/bin/bash", "--", INIT),
        ],
        env={**os.environ, "TMPDIR": str(memory), "LD_PRELOAD": str(registers)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        return kernel.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        return f"it was not off after {seconds} s"
    finally:
        if kernel.poll() is None:
            os.killpg(kernel.pid, signal.SIGKILL)
            kernel.communicate()


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


class NfsFolder(SharedFolder):
    """The folder of that server, for a test that runs inside."""

    kind = "nfs"
    THREADS = Path("/proc/fs/nfsd/threads")

    def __init__(self, _folder: Path) -> None:
        one, two = (
            Host(
                name=f"h{number}",
                path=Path(f"/mnt/h{number}"),
                enter=("nsenter", f"--net=/run/netns/h{number}", f"--uts=/run/uts/h{number}", "--"),
                address=f"10.88.{number}.2",
            )
            for number in (1, 2)
        )
        self.hosts = one, two

    def stop_server(self) -> None:
        self.THREADS.write_text("0\n")

    def start_server(self) -> None:
        self.THREADS.write_text("4\n")
        wait_until(lambda: self.THREADS.read_text() == "4\n")


def count_calls(mount: Path) -> int:
    """How many calls the client of this mount has sent to the server, by the kernel's count."""
    text = Path("/proc/self/mountstats").read_text()
    (ours,) = [part for part in text.split("device ")[1:] if f" mounted on {mount} " in part]
    operations = ours.partition("per-op statistics\n")[2].splitlines()
    return sum(int(line.split()[1]) for line in operations if ":" in line)


def forget_all() -> None:
    """Have the kernel forget what it knows of names and inodes, as it does in time."""
    Path("/proc/sys/vm/drop_caches").write_text("2\n")
