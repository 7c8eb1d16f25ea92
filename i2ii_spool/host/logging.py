"""Log one line per event: to the journal with fields, or to a terminal with time stamps."""

import logging
import os
import socket
import sys
from collections.abc import Iterator

EVENT_FIELDS = ("action", "job", "worker")
"""The fields of a record about a job (`events.fields`)."""
JOURNAL = "/run/systemd/journal/socket"
PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}


def configure_logging(who: str, worker: str | None = None) -> None:
    """Send the logs of this process, named `who`, to the journal or to standard error."""
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
    """Sends each record to the journal with its fields (systemd.journal-fields(7)).

    `journalctl I2II_JOB=ID` finds the lines about a job, from every process,
    `I2II_ACTION=claimed` those of one event, and `I2II_WORKER=node7.gpu0` those of a worker. The
    protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL
    """

    def __init__(self, identifier: str, worker: str | None) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        self._always = {
            "SYSLOG_IDENTIFIER": identifier,
            **({"I2II_WORKER": worker} if worker else {}),
        }
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # A record is one datagram, which must hold a long traceback.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record. If the journal does not accept it, write it to standard error.

        systemd forwards standard error to the journal, too.
        """
        try:
            self._socket.sendto(
                b"".join(_encode(*field) for field in self._fields(record)), JOURNAL
            )
        except OSError:
            print(self.format(record), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, str]]:
        text = self.format(record)
        yield "MESSAGE", text
        yield "PRIORITY", str(PRIORITIES.get(record.levelno, 6))
        described = {f"I2II_{name.upper()}": getattr(record, name, None) for name in EVENT_FIELDS}
        known = {name: value for name, value in described.items() if value is not None}
        yield from {**self._always, **known}.items()
        yield "LOGGER", record.name
        yield "CODE_FILE", record.pathname
        yield "CODE_LINE", str(record.lineno)
        yield "CODE_FUNC", record.funcName or ""


def _encode(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
