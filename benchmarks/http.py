"""Measure the speed and the memory of the HTTP server.

    python -m benchmarks.http [--dir DIR] [--large] [--quick] [--json]

A server with a spool of its own gets its load from another process. To cost little itself, that
process builds the requests once and sends them over raw keep-alive connections.
"""

import asyncio
import io
import multiprocessing
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import TypeVar

from PIL import Image

from benchmarks.common import Figure, Options, fill, new_spool, options, report
from benchmarks.spool import bare_submit
from i2ii_spool.errors import EngineError
from i2ii_spool.ops.loadtest.photo import photograph
from i2ii_spool.ops.loadtest.report import percentile
from i2ii_spool.spool.claim import Claims
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerState, WorkerStatus, write_status
from i2ii_spool.spool.metrics import Buckets, WorkerMetrics

HOST = "127.0.0.1"
BOUNDARY = b"benchmark-boundary"
CHUNK = 256 * 1024
UPLOADS = 64
STREAMS = 500
FEW, MANY = 100, 100_000
WORKERS = 8

Answer = TypeVar("Answer")


# --- the server -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A server process and its port."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Return the processor time it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = int(fields[11]), int(fields[12])
        return (user + system) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Return its resident memory, in MiB."""
        return self._status("VmRSS")

    def peak_memory(self) -> float:
        """Return its peak of resident memory, in MiB."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) / 1024


@contextmanager
def running(spool: Spool, **settings: str) -> Iterator[Server]:
    """Run a server of `spool`, with these variables, until the context ends."""
    port = _free_port()
    call = [
        sys.executable,
        "-m",
        "i2ii_spool",
        "serve",
        "--spool",
        str(spool.root),
        "--port",
        str(port),
    ]
    environment = {**os.environ, "I2II_MAX_QUEUE": "1000000", "I2II_HOST": HOST, **settings}
    with (spool.root / "server.log").open("w") as log:
        process = subprocess.Popen(call, stderr=log, stdout=log, env=environment)
    try:
        _wait_until_ready(process, port)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at and process.poll() is None:
        with suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"the server does not answer on port {port}")


# --- the load -------------------------------------------------------------------------------------


def in_another_process(load: Callable[..., Answer], *arguments: object) -> Answer:
    """Call `load` in another process, so that it does not slow the measured one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(load, *arguments).result()


def form(picture: bytes) -> bytes:
    """Return the bytes of a complete `POST /edit` request."""
    part = b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; name="
    body = b"".join(
        (
            *(part, b'"prompt"\r\n\r\nwatercolour\r\n'),
            *(part, b'"image"; filename="photo"\r\n\r\n', picture),
            *(b"\r\n--", BOUNDARY, b"--\r\n"),
        )
    )
    head = (
        f"POST /edit HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n\r\n"
    )
    return head.encode() + body


def send_for(
    port: int, requests: Sequence[bytes], seconds: float, concurrency: int
) -> tuple[float, list[float]]:
    """Send random `requests` for so many seconds, over `concurrency` connections.

    Return the answers per second and the sorted latencies in seconds.
    """
    took: list[float] = []
    started = time.monotonic()

    async def connection(random: Random) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        while time.monotonic() < started + seconds:
            took.append(await _exchange(reader, writer, random.choice(requests)))
        writer.close()

    async def send_all() -> None:
        await asyncio.gather(*(connection(Random(seed)) for seed in range(concurrency)))

    asyncio.run(send_all())
    return len(took) / (time.monotonic() - started), sorted(took)


def send_at_once(port: int, request: bytes, count: int) -> None:
    """Send the request once over each of `count` simultaneous connections."""

    async def one() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        await _exchange(reader, writer, request)
        writer.close()

    async def send_all() -> None:
        await asyncio.gather(*(one() for _ in range(count)))

    asyncio.run(send_all())


def begin_at_once(port: int, request: bytes, count: int) -> None:
    """Send the request over `count` connections, which stay open, and wait for no answer."""
    for _ in range(count):
        connection = socket.create_connection((HOST, port))
        connection.sendall(request)
        kept_open.append(connection)


kept_open: list[socket.socket] = []


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> float:
    """Send a request and read its answer; return the seconds it took."""
    started = time.monotonic()
    view = memoryview(request)
    for at in range(0, len(request), CHUNK):
        writer.write(view[at : at + CHUNK])
        await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    body = await reader.readexactly(int(length[1]) if length else 0)
    if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
        raise RuntimeError(f"{head.splitlines()[0].decode()}: {body.decode()}")
    return time.monotonic() - started


# --- the benchmarks -------------------------------------------------------------------------------


def submits(options: Options) -> Iterator[Figure]:
    """Durable submits of 130 KB: sixteen at a time, and one at a time against the bare calls."""
    picture = photograph(1000, 740, seed=1)
    request = form(picture)
    seconds = 0.3 if options.quick else 10
    spool = new_spool(options.folder)
    with running(spool) as server:
        # Not timed: it fills caches and imports lazily.
        in_another_process(send_for, server.port, [request], 0.2, 16)
        before = server.cpu_seconds()
        rate, took = in_another_process(send_for, server.port, [request], seconds, 16)
        cpu = (server.cpu_seconds() - before) / len(took)
        _, alone = in_another_process(send_for, server.port, [request], seconds / 2, 1)
    bare = sorted(_seconds(partial(bare_submit, spool, picture, index)) for index in range(200))
    note = "on such a machine: a FastAPI server that keeps its jobs in memory 177/s, p99 151 ms"
    yield Figure(
        "POST /edit, 130 KB JPEG, durable, 16 at a time", rate, "/s", at_least=400, note=note
    )
    yield Figure("POST /edit, p50", 1000 * percentile(took, 0.5), "ms")
    yield Figure("POST /edit, p99", 1000 * percentile(took, 0.99), "ms", at_most=60)
    yield Figure("POST /edit, processor time of the server", 1000 * cpu, "ms", at_most=3)
    ratio = percentile(alone, 0.5) / percentile(bare, 0.5)
    yield Figure("POST /edit, one at a time, p50 against the bare calls", ratio, "x", at_most=1.6)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def statuses(options: Options) -> Iterator[Figure]:
    """The latency of `GET /status/ID` with few jobs in `done/` and with many."""
    many = 200 if options.quick else MANY
    beside_few, beside_many = (_status_p99(options, done) for done in (FEW, many))
    yield Figure(f"GET /status/ID, p99, 4 at a time, {FEW} done", 1000 * beside_few, "ms")
    yield Figure(f"GET /status/ID, p99, 4 at a time, {many} done", 1000 * beside_many, "ms")
    yield Figure(
        "GET /status/ID, p99: many done against few", beside_many / beside_few, "x", at_most=2
    )


def _status_p99(options: Options, done: int) -> float:
    spool = new_spool(options.folder)
    ids = fill(spool, State.DONE, done)
    requests = [f"GET /status/{id} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() for id in ids]
    with running(spool) as server:
        in_another_process(send_for, server.port, requests, 0.2, 4)
        _, took = in_another_process(
            send_for, server.port, requests, 0.3 if options.quick else 8, 4
        )
    return percentile(took, 0.99)


def scrapes(options: Options) -> Iterator[Figure]:
    """What Prometheus waits for, and costs, with many jobs done, one more before each scrape."""
    done, count, pause = (200, 3, 0.1) if options.quick else (MANY, 12, 2.5)
    spool = new_spool(options.folder)
    fill(spool, State.DONE, done)
    for gpu in range(WORKERS):
        write_status(spool, _status_of(f"node7.gpu{gpu}"))
    with running(spool) as server:
        connection = HTTPConnection(HOST, server.port)

        def scrape() -> int:
            connection.request("GET", "/metrics")
            return len(connection.getresponse().read())

        size, took, before = scrape(), [], server.cpu_seconds()
        for _ in range(count):
            fill(spool, State.DONE, 1)
            time.sleep(pause)  # what was read a moment ago is used again
            took.append(_seconds(scrape))
        idle = server.cpu_seconds()
        time.sleep(count * pause)
        cost = (idle - before - (server.cpu_seconds() - idle)) / count
    what = f"GET /metrics, {done} done, {WORKERS} workers"
    yield Figure(f"{what}, median", 1000 * statistics.median(took), "ms")
    yield Figure(f"{what}, slowest", 1000 * max(took), "ms", at_most=20)
    yield Figure(f"{what}: processor time of the server", 1000 * cost, "ms")
    yield Figure(f"{what}: size", size / 1024, "KiB")


def _status_of(worker: str) -> WorkerStatus:
    counted = Buckets((0.05, 0.25, 1, 5, 15, 60, 300, 900, 3600)).snapshot()
    metrics = WorkerMetrics(
        started_at=time.time(),
        queue=counted,
        run={"": counted, "fast": counted},
        stages={"load": counted, "edit": counted, "save": counted},
        step=counted,
    )
    return WorkerStatus(
        worker=worker,
        state=WorkerState.READY,
        pid=1,
        gpu_id=0,
        engine="none",
        model="none",
        memory_used_mib=1,
        memory_total_mib=1,
        use_percent=1,
        metrics=metrics,
    )


def attack(options: Options) -> Iterator[Figure]:
    """The latency of `GET /status/ID` beside uploads of the slowest pictures that are let in."""
    uploads = 4 if options.quick else 100
    picture = slowest_picture(400 if options.quick else 8000)
    spool = new_spool(options.folder)
    ids = fill(spool, State.DONE, FEW)
    requests = [f"GET /status/{id} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() for id in ids]
    with (
        running(spool) as server,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as attacker,
    ):
        in_another_process(send_for, server.port, requests, 0.2, 4)
        attacker.submit(begin_at_once, server.port, form(picture), uploads).result()
        _, took = in_another_process(
            send_for, server.port, requests, 0.3 if options.quick else 20, 4
        )
    name = f"GET /status/ID, p99, 4 at a time, beside {uploads} uploads of the slowest pictures"
    yield Figure(name, 1000 * percentile(took, 0.99), "ms", at_most=100)


def polls(options: Options) -> Iterator[Figure]:
    """The server's processor time while many clients wait for jobs that do not move."""
    waiting, seconds = (20, 0.3) if options.quick else (900, 10)
    spool = new_spool(options.folder)
    [id] = fill(spool, State.INCOMING, 1)
    request = f"GET /status/{id}?wait=300 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    with (
        running(spool, I2II_MAX_CONNECTIONS=str(2 * waiting)) as server,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as clients,
    ):
        clients.submit(begin_at_once, server.port, request, waiting).result()
        time.sleep(seconds / 3)  # until each has been read
        before = server.cpu_seconds()
        time.sleep(seconds)
        used = server.cpu_seconds() - before
    name = f"processor time of {waiting} polls that wait (?wait=300)"
    yield Figure(name, 100 * used / seconds, "% of a core", at_most=5)


def streams(options: Options) -> Iterator[Figure]:
    """What streams of events cost the server: each client follows a job of its own, which waits;
    then ten jobs a second end, and each of the others moves up."""
    count, seconds = (10, 1.0) if options.quick else (STREAMS, 10.0)
    spool = new_spool(options.folder)
    ids = fill(spool, State.INCOMING, count)
    with running(spool, I2II_MAX_CONNECTIONS=str(4 * count)) as server, ExitStack() as stack:
        before = server.memory()
        for id in ids:
            connection = stack.enter_context(socket.create_connection((HOST, server.port)))
            connection.sendall(f"GET /events/{id} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            connection.recv(1)
        time.sleep(1)
        yield Figure(f"{count} streams of events, memory", server.memory() - before, "MiB")
        used = server.cpu_seconds()
        time.sleep(seconds)
        idle = server.cpu_seconds() - used
        yield Figure(f"{count} streams of events, idle", 100 * idle / seconds, "% of a core")
        claims = Claims(spool, "benchmark", max_attempts=3)
        spool.create_worker("benchmark")
        used, until = server.cpu_seconds(), time.monotonic() + seconds
        while time.monotonic() < until and (claim := claims.next()) is not None:
            claim.fail(EngineError("the benchmark ends it"))
            time.sleep(0.1)
        busy = server.cpu_seconds() - used
        name = f"{count} streams of events, ten jobs end a second"
        yield Figure(name, 100 * busy / seconds, "% of a core")


def slowest_picture(side: int) -> bytes:
    """Return a progressive JPEG of 60 scans, without its end: each scan must be decoded."""
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 2).save(buffer, "JPEG", progressive=True, quality=10)
    data = buffer.getvalue()
    scans = [match.start() for match in re.finditer(rb"\xff\xda", data)]
    last = data[scans[-1] : -2]
    return data[:-2] + last * (60 - len(scans))


def memory(options: Options) -> Iterator[Figure]:
    """The server's peak memory during 64 simultaneous uploads of photographs of 12 megapixels."""
    picture = (
        photograph(640, 480, seed=1)
        if options.quick
        else photograph(4000, 3000, seed=1, quality=99)
    )
    yield _peak(options, picture, "JPEG photographs")


def memory_of_large(options: Options) -> Iterator[Figure]:
    """The same with pictures of the largest allowed size, which do not compress."""
    if options.large:
        yield _peak(options, _noise(200 if options.quick else 4080), "PNG noise")


def _peak(options: Options, picture: bytes, what: str) -> Figure:
    uploads = 4 if options.quick else UPLOADS
    spool = new_spool(options.folder)
    with running(spool) as server:
        in_another_process(send_at_once, server.port, form(picture), uploads)
        peak = server.peak_memory()
    return Figure(
        f"peak memory, {uploads} uploads at once, {len(picture) / 1e6:.1f} MB {what}",
        peak,
        "MiB",
        at_most=150,
    )


def _noise(side: int) -> bytes:
    """Return a PNG of noise, three bytes per pixel."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), Random(1).randbytes(3 * side * side)).save(
        buffer, "PNG", compress_level=0
    )
    return buffer.getvalue()


if __name__ == "__main__":
    report(
        options(__doc__, large="also measure memory with 50 MB uploads"),
        submits,
        statuses,
        scrapes,
        attack,
        polls,
        streams,
        memory,
        memory_of_large,
    )
