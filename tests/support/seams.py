"""Every place where a test replaces a part of i2ii, and what the part must keep for that.

    url = serve_with(service, {"connection.KEEPALIVE_SECONDS": 1.0}, max_upload_mib="1")
    with dying_before_publish(): ...
    with lost_rename_reply(id): ...
    with drawing_the_youngest(): ...
    with no_inotify(): ...
    with failing_call(os, "link", "EPERM"), on_file_system(durable_io, "cifs"): ...
    with on_network("node1.example", boot_id="1111"): ...
    work_on(service, "node1.example", "1111", shares_locks=False)

A change in i2ii that breaks a test of these has moved a seam: put it right here, and nowhere else.

`os.fsync`, `os.rename`    called by their module (`os.rename(...)`), so that a disk can be played
`os.link`, `os.chmod`, `os.open`, `os.lstat`, `fcntl.flock`
                           the same, so that a file system can lack them
`file_system_of`           called by its name in the module, so that it can be another one
`time.time`, `.monotonic`  the same, so that hours can pass
`connection.*_SECONDS`, `connections.*_SECONDS`, `limits.*_SECONDS`, `long_poll.*_SECONDS`
`pool.DECODING_SECONDS`, `retention.STALE_*`
                           module constants that are read at each use, so that a test need not wait
`messages.DELAYS`, `sender.DEADLINE_SECONDS`, `receivers.FIRST_PAUSE`, `daemon.REPORT_SECONDS`,
`finder.UNWRITTEN_SECONDS` of the deliverer; likewise
`random.randrange`         called by `claim`, to draw among jobs that are sorted by age
`claim.RESCAN_SECONDS`     read at each scan of a backlog
`claim.leave`, `durable_io.sync_folder`
                           the last call before a result is moved, and before it is durable
`long_poll.load_authorized`, `long_poll.unended_ids`
                           the two ways in which a waiting poll looks at the disk
`Spool.is_on_network`, `socket.gethostname`, `hosts._boot_id`
                           read at each use, so that a process can be that of another host
`retirement.RETIRE_LEASES` read by the constructor
`claim.sweep_temp_files`, `JobFolder.has_ended`, `admission.*`, `layout.create_folder`
                           called by their module, so that another process can come in between
"""

import errno
import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest import mock

from i2ii_spool.spool import claim, hosts
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.submit import Submission
from i2ii_spool.spool.watch import Watcher
from tests.support.service import Service, wait_until

DELIVERING = "delivering the webhooks of "
SERVER = """
from i2ii_spool.cli.main import main
from i2ii_spool.server import connection, connections, limits
{assignments}
main(["serve", "--port", "0"])
"""


def serve_with(service: Service, constants: Mapping[str, float], **settings: str) -> str:
    """Start a server in which constants of `connection`, `connections` and `limits` have these
    values; return its URL."""
    for name in constants:
        module, constant = name.split(".")
        source = __import__(f"i2ii_spool.server.{module}", fromlist=[constant])
        assert hasattr(source, constant), f"there is no {name}"
    assignments = "\n".join(f"{name} = {value}" for name, value in constants.items())
    service.start(sys.executable, "-c", SERVER.format(assignments=assignments), **settings)
    listening = wait_until(lambda: re.search(r"listening on (http://\S+),", service.read_log()))
    service.url = listening[1]
    return service.url


DELIVERER = """
from i2ii_spool.cli.main import main
from i2ii_spool.webhooks import daemon, finder, messages, receivers, sender
{assignments}
main(["webhooks"])
"""
QUICK = {
    "messages.DELAYS": (0.05,) * 9,
    "receivers.FIRST_PAUSE": 0.05,
    "receivers.MAX_PAUSE": 0.2,
    "daemon.REPORT_SECONDS": 0.1,
}
"""What a deliverer has instead of minutes."""


def deliverer(constants: Mapping[str, object] = QUICK) -> tuple[str, str]:
    """The arguments of a Python that is a deliverer with these constants."""
    for name in constants:
        module, constant = name.split(".")
        source = __import__(f"i2ii_spool.webhooks.{module}", fromlist=[constant])
        assert hasattr(source, constant), f"there is no {name}"
    assignments = "\n".join(f"{name} = {value}" for name, value in constants.items())
    return "-c", DELIVERER.format(assignments=assignments)


def deliver_with(
    service: Service, constants: Mapping[str, object] = QUICK, **settings: str
) -> subprocess.Popen[bytes]:
    """Start a deliverer in which constants of its modules have these values, and wait until it
    delivers."""
    before = service.read_log().count(DELIVERING)
    process = service.start(sys.executable, *deliverer(constants), **settings)
    wait_until(lambda: service.read_log().count(DELIVERING) > before)
    return process


@contextmanager
def dying_before_publish() -> Iterator[None]:
    """A submitter dies when its job is whole, and before it is moved to `incoming/`."""
    with mock.patch.object(Submission, "_move", side_effect=KeyboardInterrupt):
        yield


@contextmanager
def lost_rename_reply(name: str, serve: Callable[[Path, Path], None] = os.rename) -> Iterator[None]:
    """A file server does the rename to this name, and its reply is lost: the retry fails.

    `serve` does it, in a way of which the client need not know.
    """
    rename = os.rename

    def rename_and_lose_reply(source: Path, target: Path) -> None:
        if Path(target).name != name:
            rename(source, target)
        else:
            with mock.patch.object(os, "rename", rename):
                serve(source, target)
            raise FileNotFoundError(errno.ENOENT, "lost reply")

    with mock.patch.object(os, "rename", rename_and_lose_reply):
        yield


@contextmanager
def drawing_the_youngest() -> Iterator[None]:
    """Of several jobs a claim draws the youngest, and no backlog is scanned again."""
    with (
        mock.patch.object(random, "randrange", lambda count: count - 1),
        mock.patch.object(claim, "RESCAN_SECONDS", 3600.0),
    ):
        yield


@contextmanager
def no_inotify() -> Iterator[None]:
    """No event arrives, as on a network file system."""
    with mock.patch.object(Watcher, "__enter__", lambda watcher: watcher):
        yield


@contextmanager
def failing_call(module: ModuleType, name: str, code: str) -> Iterator[None]:
    """A system call fails with this error, as on a file system that lacks it."""
    number = getattr(errno, code)
    error = OSError(number, os.strerror(number))
    with mock.patch.object(module, name, side_effect=error):
        yield


@contextmanager
def on_file_system(module: ModuleType, kind: str) -> Iterator[None]:
    """For this module every path is on a file system of this type."""
    with mock.patch.object(module, "file_system_of", return_value=kind):
        yield


@contextmanager
def on_network(host: str | Path, boot_id: str) -> Iterator[None]:
    """This process runs on that host, and its spools are on a network file system. If its name is
    in a file, a test can change it."""
    name = host.read_text if isinstance(host, Path) else lambda: host
    with (
        mock.patch.object(Spool, "is_on_network", True),
        mock.patch.object(socket, "gethostname", name),
        mock.patch.object(hosts, "_boot_id", return_value=boot_id),
    ):
        yield


WORKER = """
import fcntl
from pathlib import PosixPath
from i2ii_spool.cli.main import main
from tests.support.seams import on_network
if not {shares_locks}:
    fcntl.flock = lambda *_: None
with on_network({host!r}, {boot_id!r}):
    main(["gpu", "0"])
"""


def work_on(
    service: Service, host: str | Path, boot_id: str, *, shares_locks: bool = True, **settings: str
) -> subprocess.Popen[bytes]:
    """Start a worker that runs on that host, and has the spool on a network file system. Where
    that does not share locks, a worker sees none of another process."""
    script = WORKER.format(host=host, boot_id=boot_id, shares_locks=shares_locks)
    return service.start(sys.executable, "-c", script, **settings)
