"""Measure the deliverer of webhooks: many pending, a receiver that hangs, and nothing to do.

    python -m benchmarks.webhooks [--dir DIR] [--quick] [--json]

The deliverer is a process as in service. The receivers run in this one, on the same cores: they
answer at once and verify nothing.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.common import Figure, Options, fill, new_spool, options, report
from i2ii_spool.jobs.folder import JOB, RESULT
from i2ii_spool.jobs.ids import new_id
from i2ii_spool.jobs.records import Result, Timings
from i2ii_spool.jobs.request import Job
from i2ii_spool.ops.loadtest.report import percentile
from i2ii_spool.spool.layout import Spool, State

SECRET = "whsec_" + "A" * 43 + "="
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
TICKS = os.sysconf("SC_CLK_TCK")
PENDING, BESIDE, MANY, IDLE_SECONDS = 10_000, 1000, 100_000, 60.0


class Receiver:
    """Counts messages, and notes when that of each job came; it may never answer."""

    def __init__(self, *, hangs: bool = False) -> None:
        self._hangs = hangs
        self.came: dict[str, float] = {}
        self.changed = threading.Condition()
        self._ready = threading.Event()
        threading.Thread(target=asyncio.run, args=(self._run(),), daemon=True).start()
        self._ready.wait()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        self._ready.set()
        await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
            lower = {name.lower(): value for name, value in fields.items()}
            await reader.readexactly(int(lower["content-length"]))
            if self._hangs:
                continue
            with self.changed:
                self.came[lower["webhook-id"]] = time.monotonic()
                self.changed.notify_all()
            writer.write(ANSWER)

    def wait_for(self, count: int) -> None:
        """Wait until so many messages have come."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.came) >= count)

    def wait_for_job(self, id: str) -> float:
        """Return when the message of a job came."""
        with self.changed:
            self.changed.wait_for(lambda: any(id in each for each in self.came))
            return next(at for each, at in self.came.items() if id in each)


def _end(spool: Spool, url: str, count: int, templates: Path) -> list[str]:
    """Put jobs with a webhook into `done/`; return their ids. Nothing is fsynced."""
    templates.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    job = Job(prompt="watercolour", inputs=("input.jpg",), submitted_at=now, webhook=url)
    timings = Timings(queue=1.0, load=0.01, edit=1.0, save=0.1)
    whole = {"width": 1024, "height": 768, "seed": 0, "attempt": 1, "timings": timings}
    named = {"worker": "node.gpu0", "gpu_id": 0, "engine": "none", "model": "none"}
    result = Result.model_validate(
        {"outputs": ("result.png",), "completed_at": now, "revision": "", "versions": {}}
        | {**whole, **named}
    )
    ids = [new_id() for _ in range(count)]
    for id in ids:
        folder = templates / id
        folder.mkdir()
        (folder / JOB).write_bytes(job.to_json())
        (folder / RESULT).write_bytes(result.to_json())
        os.rename(folder, spool.done / id)
    return ids


class Deliverer:
    """The process, and what it has used."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def cpu_seconds(self) -> float:
        """Of user and system."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(text[11]) + int(text[12])) / TICKS

    @property
    def peak_mib(self) -> float:
        """The most memory that it has had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def _deliverer(spool: Spool) -> Iterator[Deliverer]:
    variables = {
        "I2II_SPOOL": str(spool.root),
        "I2II_WEBHOOK_SECRETS": SECRET,
        "I2II_WEBHOOK_PRIVATE": "true",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "i2ii_spool", "webhooks"],
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = process.stderr
    assert "delivering" in lines.readline()
    threading.Thread(target=lines.read, daemon=True).start()
    try:
        yield Deliverer(process)
    finally:
        process.kill()
        process.wait()


def many_pending(options: Options) -> Iterator[Figure]:
    """Messages that wait while the deliverer starts, to one receiver."""
    count = 20 if options.quick else PENDING
    spool, receiver = new_spool(options.folder), Receiver()
    _end(spool, receiver.url, count, spool.root / "made")
    started = time.monotonic()
    with _deliverer(spool) as deliverer:
        receiver.wait_for(count)
        took = max(receiver.came.values()) - started
        yield Figure(f"{count} pending, one receiver", count / took, "/s")
        yield Figure("  CPU of a message", 1000 * deliverer.cpu_seconds / count, "ms")
        yield Figure("  most memory", deliverer.peak_mib, "MiB")


def beside_a_hanging_receiver(options: Options) -> Iterator[Figure]:
    """From the end of a job to its message, alone and beside a receiver that never answers."""
    pending, jobs = (5, 2) if options.quick else (BESIDE, 100)
    for hanging in (0, pending):
        spool, quick, hangs = new_spool(options.folder), Receiver(), Receiver(hangs=True)
        _end(spool, hangs.url, hanging, spool.root / "made")
        delays = []
        with _deliverer(spool):
            for _ in range(jobs):
                [id] = _end(spool, quick.url, 1, spool.root / "made")
                ended = time.monotonic()
                delays.append(1000 * (quick.wait_for_job(id) - ended))
        name = f"from the end of a job to its message, {hanging} at a receiver that hangs"
        yield Figure(f"{name}, median", statistics.median(delays), "ms")
        yield Figure("  99 of 100", percentile(sorted(delays), 0.99), "ms")


def idle(options: Options) -> Iterator[Figure]:
    """What it costs where nothing is to be told."""
    count, seconds = (200, 0.5) if options.quick else (MANY, IDLE_SECONDS)
    spool, receiver = new_spool(options.folder), Receiver()
    fill(spool, State.DONE, count)
    [id] = _end(spool, receiver.url, 1, spool.root / "made")
    started = time.monotonic()
    with _deliverer(spool) as deliverer:
        first = receiver.wait_for_job(id) - started
        before, began = deliverer.cpu_seconds, time.monotonic()
        time.sleep(seconds)
        used = (deliverer.cpu_seconds - before) / (time.monotonic() - began)
        yield Figure(f"{count} done: from the start to the first message", first, "s")
        yield Figure("  CPU while idle", 100 * used, "%")
        yield Figure("  most memory", deliverer.peak_mib, "MiB")


if __name__ == "__main__":
    report(options(__doc__), many_pending, beside_a_hanging_receiver, idle)
