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
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

from PIL import Image

from benchmarks.common import Figure, Options, fill, new_spool, options, report
from i2ii_spool.ops.loadtest.photo import photograph
from i2ii_spool.ops.loadtest.report import percentile
from i2ii_spool.spool.layout import Spool, State

HOST = "127.0.0.1"
BOUNDARY = b"benchmark-boundary"
CHUNK = 256 * 1024
UPLOADS = 64
FEW, MANY = 100, 100_000

Answer = TypeVar("Answer")


# --- the server -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A server process and its port."""

    port: int
    pid: int

    def peak_memory(self) -> float:
        """Return its peak of resident memory, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


@contextmanager
def running(spool: Spool) -> Iterator[Server]:
    """Run a server of `spool` until the context ends."""
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
    environment = {**os.environ, "I2II_MAX_QUEUE": "1000000", "I2II_HOST": HOST}
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
    """Durable submits of 130 KB per second, sixteen at a time."""
    request = form(photograph(1000, 740, seed=1))
    spool = new_spool(options.folder)
    with running(spool) as server:
        # Not timed: it fills caches and imports lazily.
        in_another_process(send_for, server.port, [request], 0.2, 16)
        rate, took = in_another_process(
            send_for, server.port, [request], 0.3 if options.quick else 10, 16
        )
    note = "on such a machine: a FastAPI server that keeps its jobs in memory 177/s, p99 151 ms"
    yield Figure(
        "POST /edit, 130 KB JPEG, durable, 16 at a time", rate, "/s", at_least=400, note=note
    )
    yield Figure("POST /edit, p50", 1000 * percentile(took, 0.5), "ms")
    yield Figure("POST /edit, p99", 1000 * percentile(took, 0.99), "ms", at_most=60)


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
        memory,
        memory_of_large,
    )
