"""Which host a worker runs on, and how the hosts of a spool are.

The name of a worker begins with the short name of its host, so that a spool knows a host by that
name. Two hosts may have the same one: a cloned image, `localhost`, node1.a and node1.b. Their
workers must not take each other for themselves.
"""

import os
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from i2ii_spool.errors import InvalidRequest, WorkerNameTaken
from i2ii_spool.jobs.folder import open_regular, read_record
from i2ii_spool.jobs.request import parse_json
from i2ii_spool.spool.layout import Spool

if TYPE_CHECKING:
    from i2ii_spool.spool.liveness import WorkerView

UNKNOWN = "unknown"
"""The version of a worker that does not tell it."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def short_name() -> str:
    """This host's name, as in the names of its workers."""
    name = socket.gethostname().split(".")[0]
    return re.sub(r"[^A-Za-z0-9-]", "-", name).strip("-") or "localhost"


def host_of(worker: str) -> str:
    """The short name of a worker's host."""
    return worker.partition(".")[0]


# --- identity -------------------------------------------------------------------------------------


class Origin(BaseModel):
    """Where a worker runs, as its status file tells. Empty fields: it is of an older version.

    The boot id stands for the host. The kernel draws it at each boot: a cloned image does not copy
    it, unlike a machine id, and all containers of one kernel, which share its locks, share it. The
    full name tells apart hosts that are played by namespaces of one kernel. After a reboot a host
    is another one, which is right: nothing that ran before runs still, and its heartbeats are
    silent.
    """

    model_config = ConfigDict(frozen=True)

    host: str = ""
    """The full name of the host."""
    boot_id: str = ""

    def is_same(self, other: "Origin") -> bool:
        """Whether both are one host. Not if either does not tell: its heartbeat then counts."""
        return bool(self.boot_id) and self == other

    def is_apart(self, other: "Origin") -> bool:
        """Whether they are certainly two hosts, or one before and after it booted."""
        return bool(self.boot_id and other.boot_id) and self != other

    @classmethod
    def here(cls) -> "Origin":
        """Of this process, now: the name of a running host may change."""
        return cls(host=socket.gethostname(), boot_id=_boot_id())

    @classmethod
    def of(cls, spool: Spool, worker: str) -> "Origin | None":
        """As the worker's status file tells; None if there is none that can be read."""
        try:
            return parse_json(cls, read_record(spool.status_file(worker)))
        except (FileNotFoundError, PermissionError, InvalidRequest):
            return None


@cache
def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:  # hidden by the sandbox of a unit
        return ""


def is_local(spool: Spool, worker: str) -> bool:
    """Whether it is a worker of this host: its lock then tells whether it is alive."""
    if host_of(worker) != short_name():
        return False
    if not spool.is_on_network:  # no other host reaches it
        return True
    origin = Origin.of(spool, worker)
    return origin is None or origin.is_same(Origin.here())


class NamesakeWatch:
    """Tells whether a worker of another host has the name that a starting worker is to take.

    Its lock does not: a network file system may lock for each host alone. Its heartbeat does, and
    while it is silent for less than the lease, it may still live.
    """

    def __init__(self, spool: Spool, worker: str, here: Origin, *, lease: float) -> None:
        self._spool = spool
        self._worker = worker
        self._here = here
        self._lease = lease
        self._beat: int | None = None
        self._silent_since = time.monotonic()

    def is_free(self, *, has_lock: bool) -> bool:
        """Whether no other host has the name; False while that is not known yet.

        Raises `WorkerNameTaken` if a worker of another host lives.
        """
        if not self._spool.is_on_network:
            return True
        origin = Origin.of(self._spool, self._worker)
        beat = heartbeat(self._spool, self._worker)
        if origin is None or beat is None or origin.is_same(self._here):
            return True
        if not (has_lock or origin.is_apart(self._here)):  # an older version may run on this host
            return False
        if beat != self._beat:
            if self._beat is not None:
                raise _name_taken(self._worker, origin)
            self._beat, self._silent_since = beat, time.monotonic()
        return time.monotonic() - self._silent_since >= self._lease


def heartbeat(spool: Spool, worker: str) -> int | None:
    """When the worker's status file was written, in nanoseconds by the clock of the file system.

    None if there is none that this user may read.
    """
    # By its descriptor: NFS asks the server when a file is opened, and may cache what stat() says.
    try:
        with open_regular(spool.status_file(worker)) as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except (FileNotFoundError, PermissionError, InvalidRequest):
        return None


def is_elsewhere(spool: Spool, worker: str, here: Origin) -> bool:
    """Whether the worker's status file is that of a worker of another host than `here`."""
    if not spool.is_on_network:
        return False
    origin = Origin.of(spool, worker)
    return origin is not None and origin.is_apart(here)


def check_not_taken(spool: Spool, worker: str, here: Origin) -> None:
    """Raise `WorkerNameTaken` if a worker of another host writes the status file of this one.

    `here` is what this worker writes there. Both have started at the same moment: neither saw the
    other. One of the two ends.
    """
    origin = Origin.of(spool, worker)
    if origin is None or not origin.is_apart(here):
        return
    if (origin.boot_id, origin.host) < (here.boot_id, here.host):
        raise _name_taken(worker, origin)


def _name_taken(worker: str, origin: Origin) -> WorkerNameTaken:
    return WorkerNameTaken(
        f"{worker} runs on another host, which is called {origin.host} (boot id {origin.boot_id}): "
        f"the hosts of a spool need different names up to the first dot; rename this one "
        "(hostnamectl set-hostname NAME), then start the worker again"
    )


# --- the hosts of a spool -------------------------------------------------------------------------


@dataclass(frozen=True)
class HostView:
    """A host, as its workers show it."""

    host: str
    """Its name, as in the names of its workers."""
    workers: "Sequence[WorkerView]"

    @property
    def alive(self) -> bool:
        """Whether any of its workers is alive."""
        return self.alive_workers > 0

    @property
    def alive_workers(self) -> int:
        """How many of its workers are alive."""
        return sum(worker.alive for worker in self.workers)

    @property
    def ready_workers(self) -> int:
        """How many of its workers take jobs."""
        return sum(worker.ready for worker in self.workers)

    @property
    def running_jobs(self) -> int:
        """How many jobs its live workers work on."""
        return sum(worker.alive and worker.status.job is not None for worker in self.workers)

    @property
    def heartbeat_age(self) -> float:
        """Seconds since any of its workers last wrote its state."""
        return min(worker.heartbeat_age for worker in self.workers)

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions of i2ii that its live workers run; old ones do not tell theirs."""
        return tuple(
            sorted({each.status.version or UNKNOWN for each in self.workers if each.alive})
        )


def by_host(workers: "Sequence[WorkerView]") -> list[HostView]:
    """Return the hosts of these workers, by name."""

    def host(worker: "WorkerView") -> str:
        return host_of(worker.status.worker)

    return [HostView(name, list(group)) for name, group in groupby(sorted(workers, key=host), host)]
