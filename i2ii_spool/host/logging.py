"""Log a line per event: to the journal with fields, to a terminal with time stamps, or in JSON."""

import json
import logging
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Self

import i2ii_spool
from i2ii_spool.events import JobEvent
from i2ii_spool.settings import LogFormat

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


def configure_logging(who: str, log_format: LogFormat, worker: str | None = None) -> None:
    """Send the logs of this process, named `who`, to the journal or to standard error."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter(who, worker))
    elif log_format == "auto" and _stderr_is_the_journal():
        handler = JournalHandler(f"i2ii-{who}", worker)
    else:
        line = f"%(asctime)s.%(msecs)03d {who:<6} %(levelname)-7s %(message)s"
        handler.setFormatter(logging.Formatter(line, "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _stderr_is_the_journal() -> bool:
    status = os.fstat(sys.stderr.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JsonFormatter(logging.Formatter):
    """Writes a record as a JSON object on a line: `time`, `level`, `process` and `message`, of one
    about a job `action`, `job` and `worker`, and after an exception its `traceback`."""

    def __init__(self, who: str, worker: str | None) -> None:
        super().__init__()
        self._always = {"process": who, **({"worker": worker} if worker else {})}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        described = {name: getattr(record, name, None) for name in EVENT_FIELDS}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._always,
            **{name: value for name, value in described.items() if value is not None},
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace").decode()


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


# --- counting -------------------------------------------------------------------------------------


class EventCounter(logging.Handler):
    """Counts the events that this process logs, while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._counting = threading.Lock()
        self._events: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    @property
    def events(self) -> dict[str, int]:
        """How often each event has happened."""
        with self._counting:
            return dict(self._events)

    @property
    def failures(self) -> dict[str, int]:
        """How many jobs have failed, by the code of the error."""
        with self._counting:
            return dict(self._failures)

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record that is of an event."""
        event, code = getattr(record, "action", None), getattr(record, "code", None)
        with self._counting:
            if event is not None:
                self._events[event] += 1
            if event == JobEvent.FAILED and code is not None:
                self._failures[code] += 1

    def __enter__(self) -> Self:
        logging.getLogger(i2ii_spool.__name__).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger(i2ii_spool.__name__).removeHandler(self)
