"""Two hosts and the folder that they share.

    with LocalFolder(tmp_path) as shared:
        here, there = shared.hosts
        (here.path / "x").touch()
        subprocess.run(there.command("hostname"), check=True)

Each host has a mount of the folder with a cache of its own, under a path that the tests' own
process sees too: what a test does below `here.path` is what a process of that host would do there.
Each kind of file system is a subclass of `SharedFolder`.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from i2ii_spool.spool.layout import Spool
from tests.support.service import Service


@dataclass(frozen=True)
class Host:
    """A host as the tests see it."""

    name: str
    """What `hostname` says there."""
    path: Path
    """Where it has mounted the shared folder."""
    enter: tuple[str, ...]
    """The command that becomes the one behind it, there."""
    address: str = "127.0.0.1"
    """Where its servers can be reached."""

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs these arguments there, in the process that is started."""
        return [*self.enter, *arguments]


class SharedFolder:
    """A folder that two hosts have mounted. It is there inside the `with`."""

    kind: str
    hosts: tuple[Host, Host]
    has_server = True
    """Whether there is a server to stop, which is no process of either host."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stop_server(self) -> None:
        """From now on the file system does not answer: calls wait, or fail as they do there."""
        raise NotImplementedError

    def start_server(self) -> None:
        """It answers again, with all that it held."""
        raise NotImplementedError


class HostService(Service):
    """The processes of one host, on a spool in the shared folder.

    `log_folder` is for what they log; `spool` is the folder below the host's mount.
    """

    def __init__(self, host: Host, spool: Spool, log_folder: Path) -> None:
        log_folder.mkdir()
        super().__init__(log_folder, spool)
        self.host = host
        self.environment |= {"I2II_HOST": host.address, "I2II_NO_AUTH": "true"}

    def worker(self, unit: str = "gpu0") -> str:
        """The name of this host's worker for the unit."""
        return f"{self.host.name}.{unit}"

    def start(self, *command: str, **settings: str) -> subprocess.Popen[bytes]:
        return super().start(*self.host.command(*command), **settings)


def why_no_names() -> str | None:
    """Why a process cannot have another host's name here, or None."""
    if shutil.which("unshare") is None:
        return "unshare is not there"
    tried = subprocess.run(as_host("h1", "true"), capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else None


def as_host(name: str, *arguments: str) -> list[str]:
    """The command line of a process for which this host bears another name."""
    return ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name, *arguments]


class LocalFolder(SharedFolder):
    """A folder of this machine, whose two hosts are names: the control, on which all must hold."""

    kind = "local"
    has_server = False

    def __init__(self, folder: Path) -> None:
        one, two = (Host(name, folder, tuple(as_host(name))) for name in ("h1", "h2"))
        self.hosts = one, two
