"""How fast the HTTP server is, and how much memory it takes.

    python -m benchmarks.http [--dir DIR] [--large] [--quick] [--json]

A real server, in a spool of its own, and a load from another process that costs little itself:
requests are built once and sent over raw, kept-alive connections.
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
    """A server process, and the port that it listens on."""

    port: int
    pid: int

    def peak_memory(self) -> float:
        """The most memory that it has had resident, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


@contextmanager
def running(spool: Spool) -> Iterator[Server]:
    """A server of `spool`, ready to answer; it is stopped afterwards."""
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
        _wait_until_it_answers(process, port)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", port: int) -> None:
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at and process.poll() is None:
        with suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"the server does not answer on port {port}")


# --- the load -------------------------------------------------------------------------------------


def in_another_process(load: Callable[..., Answer], *arguments: object) -> Answer:
    """Call `load` where it takes no turn from what it measures."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(load, *arguments).result()


def form(picture: bytes) -> bytes:
    """A whole `POST /edit` as it goes over the wire."""
    body = b"".join(
        [
            *(
                b"--",
                BOUNDARY,
                b'\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nwatercolour\r\n',
            ),
            *(
                b"--",
                BOUNDARY,
                b'\r\nContent-Disposition: form-data; name="image"; filename="photo"\r\n\r\n',
            ),
            *(picture, b"\r\n--", BOUNDARY, b"--\r\n"),
        ]
    )
    head = (
        f"POST /edit HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n\r\n"
    )
    return head.encode() + body


def send_for(
    port: int, requests: Sequence[bytes], seconds: float, concurrency: int
) -> tuple[float, list[float]]:
    """Send requests drawn from `requests` for so many seconds; return how many a second were
    answered, and the sorted times (s) that each took."""
    return asyncio.run(_send_for(port, requests, seconds, concurrency))


async def _send_for(
    port: int, requests: Sequence[bytes], seconds: float, concurrency: int
) -> tuple[float, list[float]]:
    took: list[float] = []
    started = time.monotonic()

    async def connection(random: Random) -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        while time.monotonic() < started + seconds:
            took.append(await _exchange(reader, writer, random.choice(requests)))
        writer.close()

    await asyncio.gather(*(connection(Random(seed)) for seed in range(concurrency)))
    return len(took) / (time.monotonic() - started), sorted(took)


def send_at_once(port: int, request: bytes, count: int) -> None:
    """Send the request over `count` connections at a time, once."""

    async def one() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        await _exchange(reader, writer, request)
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(count)))

    asyncio.run(all_of_them())


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> float:
    """Send a request and read its answer; return the seconds that it took."""
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
    """How many submits of 130 KB the server makes durable in a second, sixteen at a time."""
    request = form(photograph(1000, 740, seed=1))
    spool = new_spool(options.folder)
    with running(spool) as server:
        in_another_process(
            send_for, server.port, [request], 0.2, 16
        )  # caches and lazy imports, once
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
    """How long `GET /status/ID` takes, beside few jobs in `done/` and beside many."""
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
    """The most memory that the server takes while 64 photographs of 12 megapixels come in at once."""
    picture = (
        photograph(640, 480, seed=1)
        if options.quick
        else photograph(4000, 3000, seed=1, quality=99)
    )
    yield _peak(options, picture, "JPEG photographs")


def memory_of_large(options: Options) -> Iterator[Figure]:
    """The same with pictures as large as a body may be, which no codec makes smaller."""
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
    """A PNG of three bytes per pixel."""
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
