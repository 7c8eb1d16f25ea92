"""Every place where a test replaces a part of i2ii, and what the part must keep for that.

    url = serve_with(service, {"connection.KEEPALIVE_SECONDS": 1.0}, max_upload_mib="1")
    with dying_before_publish(): ...
    with lost_rename_reply(id): ...

A change in i2ii that breaks a test of these has moved a seam: put it right here, and nowhere else.

`os.fsync`, `os.rename`    called by their module (`os.rename(...)`), so that a disk can be played
`time.time`, `.monotonic`  the same, so that hours can pass
`connection.*_SECONDS`, `limits.*_SECONDS`, `probe.DECODING_SECONDS`, `retention.STALE_*`
                           module constants that are read at each use, so that a test need not wait
`claim.leave`, `durable_io.sync_folder`
                           the last call before a result is moved, and before it is durable
`claim.sweep_temp_files`, `JobFolder.has_ended`, `admission.*`
                           called by their module, so that another process can come in between
"""

import errno
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from i2ii_spool.spool.submit import Submission
from tests.support.service import Service, wait_until

SERVER = """
from i2ii_spool.cli.main import main
from i2ii_spool.server import connection, limits
{assignments}
main(["serve", "--port", "0"])
"""


def serve_with(service: Service, constants: Mapping[str, float], **settings: str) -> str:
    """Start a server in which constants of `connection` and `limits` have these values; return its
    URL."""
    for name in constants:
        module, constant = name.split(".")
        source = __import__(f"i2ii_spool.server.{module}", fromlist=[constant])
        assert hasattr(source, constant), f"there is no {name}"
    assignments = "\n".join(f"{name} = {value}" for name, value in constants.items())
    service.start(sys.executable, "-c", SERVER.format(assignments=assignments), **settings)
    listening = wait_until(lambda: re.search(r"listening on (http://\S+),", service.read_log()))
    service.url = listening[1]
    return service.url


@contextmanager
def dying_before_publish() -> Iterator[None]:
    """A submitter dies when its job is whole, and before it is moved to `incoming/`."""
    with mock.patch.object(Submission, "_move", side_effect=KeyboardInterrupt):
        yield


@contextmanager
def lost_rename_reply(name: str) -> Iterator[None]:
    """A file server does the rename to this name, and its reply is lost: the retry fails."""
    rename = os.rename

    def rename_and_lose_reply(source: Path, target: Path) -> None:
        rename(source, target)
        if Path(target).name == name:
            raise FileNotFoundError(errno.ENOENT, "lost reply")

    with mock.patch.object(os, "rename", rename_and_lose_reply):
        yield
