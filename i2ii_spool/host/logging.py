"""One line per event. The journal stamps its lines itself, and gets the jobs that a line names as
fields; on a terminal we stamp them."""

import logging
import os
import socket
import sys
from collections.abc import Iterator

from i2ii_spool.jobs.ids import ID

JOURNAL = "/run/systemd/journal/socket"
PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}


def configure_logging(who: str, worker: str | None = None) -> None:
    """Send the logs of this process, as the process `who`, to the journal or to standard error."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(
            f"%(asctime)s.%(msecs)03d {who:<6} %(levelname)-7s %(message)s", "%H:%M:%S"
        )
    )
    if _stderr_is_the_journal():
        handler = JournalHandler(f"i2ii-{who}", worker)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _stderr_is_the_journal() -> bool:
    status = os.fstat(sys.stderr.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Sends each record with its fields (systemd.journal-fields(7)): `journalctl I2II_JOB=ID` finds
    a job's lines, whoever wrote them, and `journalctl I2II_WORKER=node7.gpu0` a worker's.

    The protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL
    """

    def __init__(self, identifier: str, worker: str | None) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        self._always = {
            "SYSLOG_IDENTIFIER": identifier,
            **({"I2II_WORKER": worker} if worker else {}),
        }
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20
        )  # a long traceback is one datagram

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record; where the journal cannot take it, write it to standard error, which
        systemd reads too."""
        try:
            self._socket.sendto(
                b"".join(_encode(*field) for field in self._fields(record)), JOURNAL
            )
        except OSError:
            print(self.format(record), file=sys.stderr, flush=True)

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, str]]:
        text = self.format(record)
        yield "MESSAGE", text
        yield "PRIORITY", str(PRIORITIES.get(record.levelno, 6))
        yield from self._always.items()
        yield from (
            ("I2II_JOB", id) for id in {found.group().rstrip(".") for found in ID.finditer(text)}
        )
        yield "LOGGER", record.name
        yield "CODE_FILE", record.pathname
        yield "CODE_LINE", str(record.lineno)
        yield "CODE_FUNC", record.funcName or ""


def _encode(name: str, value: str) -> bytes:
    data = value.encode(errors="surrogateescape")
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
