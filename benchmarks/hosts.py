"""Measure one spool that two hosts share: jobs per second, network calls, claims.

    python -m benchmarks.hosts FOLDER_ON_HOST_A FOLDER_ON_HOST_B [--most N] [--quick] [--json]

Both folders are the same one, mounted twice, with a cache each; two paths to a local folder are a
spool without a network. Half of the workers use each, under a host's name of its own: run it as
root. Remote procedure calls (RPCs) are those in /proc/self/mountstats, of both mounts.

`benchmarks.hosts_simulation` computes from these figures what a thousand workers would do.
"""

import argparse
import ctypes
import multiprocessing
import os
import re
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.common import (
    Figure,
    Options,
    claim_and_release,
    fill,
    new_spool,
    report,
)
from i2ii_spool.engines.base import EngineInfo, OnStep
from i2ii_spool.host.gpus import Gpu
from i2ii_spool.images.codec import encode
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.settings import Settings
from i2ii_spool.spool.claim import RESCAN_SECONDS, Claims
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.submit import submit
from i2ii_spool.worker.daemon import Worker

EDITS = {0.0: 20, 0.1: 20, 4.0: 5}
"""Seconds that an edit takes, and how many each worker does."""
WORKERS = (1, 2, 4, 8)
WAITING = (100, 10_000, 100_000)
CLAIMS, RACES = 40, 20
IDLE_SECONDS = 10
MAX_PIXELS = 1_000_000
CLONE_NEWUTS = 0x04000000
START_SECONDS = 300

spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Hosts:
    """A spool, as each of two hosts sees it."""

    a: Spool
    b: Spool

    @classmethod
    def new(cls, folder_a: Path, folder_b: Path) -> "Hosts":
        """Create a spool on host A."""
        spool = new_spool(folder_a)
        return cls(spool, Spool(folder_b / spool.root.relative_to(folder_a)))

    def of(self, index: int, count: int) -> Spool:
        """The view of the worker `index`, where `count` hosts have workers."""
        return (self.a, self.b)[index % count]


# --- remote procedure calls -----------------------------------------------------------------------


def rpcs(*folders: Path) -> int | None:
    """The calls that the mounts of these folders have made; None if none is one of NFS."""
    calls = {
        Path(mount): sum(map(int, re.findall(r"^\s+[A-Z_]+: (\d+) ", rest, re.MULTILINE)))
        for mount, rest in re.findall(
            r"^device \S+ mounted on (\S+) with fstype nfs4?\b(.*?)(?=^device |\Z)",
            Path("/proc/self/mountstats").read_text(),
            re.MULTILINE | re.DOTALL,
        )
    }
    found = [count for mount, count in calls.items() if mount in _parents(folders)]
    return sum(found) if found else None


def _parents(folders: Sequence[Path]) -> set[Path]:
    return {parent for folder in folders for parent in (folder, *folder.parents)}


class Meter:
    """Counts the calls and the seconds from its making on."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self._before = rpcs(*folders)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._started

    def figures(self, what: str, count: float) -> Iterator[Figure]:
        """The calls for each of `count` things; nothing without NFS."""
        after = rpcs(*self._folders)
        if after is not None and self._before is not None:
            yield Figure(f"RPCs: {what}", (after - self._before) / count, "")


# --- workers --------------------------------------------------------------------------------------


class Pause:
    """An engine that waits, and returns its picture unchanged. All start at the same time."""

    info = EngineInfo(engine="pause", model="none", revision="1")
    compiling = False

    def __init__(self, seconds: float, ready: Barrier, ends: Any) -> None:
        self._seconds = seconds
        self._ready = ready
        self._ends = ends

    def load(self) -> None:
        """Wait until all workers have started."""
        self._ready.wait()

    def edit(
        self, images: Sequence[Image.Image], request: EditRequest, on_step: OnStep
    ) -> list[Image.Image]:
        """Wait."""
        del request
        time.sleep(self._seconds)
        on_step(1, 1)
        return list(images)

    def close(self) -> None:
        """Tell when the last result was saved, on the clock that all processes share."""
        self._ends.put(time.monotonic())


def take_name(host: str) -> None:
    """Give this process's host another name. Raises `OSError` if it is not root's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUTS):
        raise OSError(ctypes.get_errno(), "a host's name of its own needs root")
    socket.sethostname(host)


def _work(
    spool: Path, index: int, host: str, seconds: float, ready: Barrier, ends: Any, burst: bool
) -> None:
    """The main function of a worker process."""
    take_name(host)
    engine = Pause(seconds, ready, ends)
    settings = Settings(spool=spool, min_free_mib=0)
    Worker(settings, engine, Gpu(index, f"gpu{index}"), burst=burst).run()


def _start(
    shared: Hosts, workers: int, hosts: int, seconds: float, ends: Any, *, burst: bool
) -> list[SpawnProcess]:
    """Start workers, and return once they all claim."""
    ready = spawn.Barrier(workers + 1)
    started = []
    for index in range(workers):
        name = f"host-{'ab'[index % hosts]}"
        spool = shared.of(index, hosts).root
        arguments = (spool, index, name, seconds, ready, ends, burst)
        started.append(spawn.Process(target=_work, args=arguments))
        started[-1].start()
    ready.wait(timeout=START_SECONDS)
    return started


def _submit(spool: Spool, jobs: int) -> None:
    picture = spool.root.parent / "small.png"
    picture.write_bytes(encode(Image.new("RGB", (64, 64), "teal"), "png"))
    request = EditRequest(prompt="watercolour")
    with ThreadPoolExecutor(4) as pool:
        each = partial(submit, spool, [picture], request, max_pixels=MAX_PIXELS)
        list(pool.map(lambda _: each(), range(jobs)))


def throughput(options: Options, other: Path) -> Iterator[Figure]:
    """Jobs per second of workers on one host and on two."""
    for seconds in tuple(EDITS)[: 2 if options.quick else None]:
        for hosts in (1, 2):
            for workers in (2,) if options.quick else WORKERS:
                if workers >= hosts:
                    yield from _throughput(options, other, workers, hosts, seconds)


def _throughput(
    options: Options, other: Path, workers: int, hosts: int, seconds: float
) -> Iterator[Figure]:
    shared = Hosts.new(options.folder, other)
    jobs = workers * (2 if options.quick else EDITS[seconds])
    _submit(shared.a, jobs)
    ends = spawn.Queue()
    started = _start(shared, workers, hosts, seconds, ends, burst=True)
    meter, began = Meter(options.folder, other), time.monotonic()
    took = max(ends.get() for _ in started) - began
    what = f"{workers} workers on {hosts} {'host' if hosts == 1 else 'hosts'}, {seconds} s an edit"
    calls = list(meter.figures(f"a job, {what}", jobs))
    for worker in started:
        worker.join()
    done = len(os.listdir(shared.a.done))
    assert done == jobs, f"{done} of {jobs} are done"
    yield Figure(what, jobs / took, "jobs/s")
    yield from calls


def idle(options: Options, other: Path) -> Iterator[Figure]:
    """The calls of a worker for which no job waits."""
    shared = Hosts.new(options.folder, other)
    (worker,) = _start(shared, 1, 1, 0, spawn.Queue(), burst=False)
    meter, seconds = Meter(options.folder, other), 1 if options.quick else IDLE_SECONDS
    time.sleep(seconds)
    yield from meter.figures("an idle worker, a second", seconds)
    worker.terminate()
    worker.join()


# --- claims ---------------------------------------------------------------------------------------


def claims(options: Options, other: Path, most: int) -> Iterator[Figure]:
    """What host B pays for a look at the queue and for a claim, of jobs that host A submitted."""
    for waiting in (count for count in WAITING if count <= most):
        shared = Hosts.new(options.folder, other)
        fill(shared.a, State.INCOMING, waiting)
        (shared.b.running / "host-b.gpu0").mkdir()
        mine = Claims(shared.b, "host-b.gpu0", max_attempts=3)
        meter = Meter(other)
        mine.backlog.scan()
        yield Figure(f"a look at the queue, {waiting} waiting", 1000 * meter.seconds, "ms")
        yield from meter.figures(f"a look at the queue, {waiting} waiting", 1)
        meter = Meter(other)
        median = statistics.median(claim_and_release(mine) for _ in range(CLAIMS))
        yield Figure(f"claim + release, {waiting} waiting", 1000 * median, "ms")
        yield from meter.figures(f"claim + release, {waiting} waiting", CLAIMS)


def lost_races(options: Options, other: Path) -> Iterator[Figure]:
    """What host B pays for a job that host A has taken since B's last look at the queue."""
    while (found := _lose_races(options, other)) is None:
        pass
    yield from found


def _lose_races(options: Options, other: Path) -> list[Figure] | None:
    """Return the figures; None if it took so long that B has looked again."""
    shared = Hosts.new(options.folder, other)
    mine, theirs = (
        Claims(spool, worker, max_attempts=3)
        for spool, worker in ((shared.b, "host-b.gpu0"), (shared.a, "host-a.gpu0"))
    )
    for worker in ("host-a.gpu0", "host-b.gpu0"):
        (shared.a.running / worker).mkdir()
    fill(shared.a, State.INCOMING, RACES)
    looked_at = time.monotonic()
    mine.backlog.scan()
    while theirs.next() is not None:
        pass
    meter = Meter(other)
    assert mine.next() is None
    figures = [Figure("a lost race", 1000 * meter.seconds / RACES, "ms")]
    figures += meter.figures("a lost race", RACES)
    return figures if time.monotonic() - looked_at < RESCAN_SECONDS else None


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder_a", type=Path, help="the shared folder, as host A mounts it")
    parser.add_argument("folder_b", type=Path, help="the shared folder, as host B mounts it")
    parser.add_argument("--most", type=int, default=WAITING[-1], help="at most this many waiting")
    parser.add_argument("--quick", action="store_true", help="smoke test: meaningless figures")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    a, b = given.folder_a.absolute(), given.folder_b.absolute()
    most = min(given.most, WAITING[0]) if given.quick else given.most
    report(
        Options(a, given.quick, given.json, large=False),
        partial(throughput, other=b),
        partial(idle, other=b),
        partial(lost_races, other=b),
        partial(claims, other=b, most=most),
    )


if __name__ == "__main__":
    _main()
