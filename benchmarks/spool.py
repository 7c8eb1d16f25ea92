"""Measure the spool without HTTP and GPUs: submits, claims, no-op jobs, look-ups, wake-ups.

    python -m benchmarks.spool [--dir DIR] [--quick] [--json]

Everything is as durable as in service: each job is fsynced before its submit returns, each attempt
before its edit.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from random import Random

from PIL import Image

from benchmarks.common import (
    Figure,
    Options,
    claim_and_release,
    fill,
    new_spool,
    options,
    report,
)
from i2ii_spool.engines.base import EngineInfo, OnStep
from i2ii_spool.errors import NotFound
from i2ii_spool.host.gpus import Gpu
from i2ii_spool.images.codec import encode
from i2ii_spool.jobs.ids import new_id
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.ops.loadtest.photo import photograph
from i2ii_spool.ops.loadtest.report import percentile
from i2ii_spool.settings import Settings
from i2ii_spool.spool.claim import Claims
from i2ii_spool.spool.durable_io import sync_folder
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import SETTLED_NS, list_jobs
from i2ii_spool.spool.status import read_status
from i2ii_spool.spool.submit import submit
from i2ii_spool.worker.daemon import Worker

SUBMITTERS = 16
FEW, MANY = 100, 100_000
MAX_PIXELS = 64_000_000

spawn = multiprocessing.get_context("spawn")


# --- submits --------------------------------------------------------------------------------------


def durable_submits(options: Options) -> Iterator[Figure]:
    """Durable submits per second of a photograph of 130 KB, by 16 threads."""
    spool = new_spool(options.folder)
    picture = spool.root / "photo.jpg"
    picture.write_bytes(photograph(1000, 740, seed=1))
    jobs = 32 if options.quick else 6000
    bare = _bare_rate(spool, picture.read_bytes(), jobs)
    rate = _submit_rate(spool, picture, jobs)
    yield Figure(
        f"the system calls of a durable submit and nothing else, {SUBMITTERS} threads", bare, "/s"
    )
    yield Figure(
        f"durable submits, {SUBMITTERS} threads, 130 KB JPEG",
        rate,
        "/s",
        at_least=1500,
        note="on such a machine: huey on Redis with fsync always 1489/s, Celery 415/s; neither "
        "inspects the picture",
    )


def _submit_rate(spool: Spool, picture: Path, jobs: int) -> float:
    def one(index: int) -> None:
        submit(
            spool,
            [picture],
            EditRequest(prompt="watercolour", name=f"job-{index}"),
            max_pixels=MAX_PIXELS,
        )

    return _rate(one, jobs)


def _bare_rate(spool: Spool, picture: bytes, jobs: int) -> float:
    """The limit of this disk and this Python: the same five fsyncs, without id, inspection and
    validation."""

    return _rate(partial(bare_submit, spool, picture), jobs)


def bare_submit(spool: Spool, picture: bytes, index: int) -> None:
    """Make the system calls of a durable submit, and nothing else."""
    folder = f"{spool.staging}/bare-{index}"
    os.mkdir(folder)
    _write_and_sync(f"{folder}/input.jpg", picture)
    _write_and_sync(f"{folder}/job.json", picture[:400])
    sync_folder(folder)
    os.rename(folder, f"{spool.trash}/bare-{index}")
    sync_folder(spool.trash)
    sync_folder(spool.staging)


def _rate(one: Callable[[int], None], jobs: int) -> float:
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        started = time.monotonic()
        list(pool.map(one, range(jobs)))
        return jobs / (time.monotonic() - started)


def _write_and_sync(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)


# --- no-op jobs -----------------------------------------------------------------------------------


class Copier:
    """An engine that returns its picture unchanged. It waits for `ready` before the first claim."""

    info = EngineInfo(engine="copier", model="none", revision="1")
    compiling = False

    def __init__(self, ready: Barrier, starts: Path) -> None:
        self._ready = ready
        self._starts = starts

    def load(self) -> None:
        """Wait until all workers have started."""
        self._file = self._starts.open("a", buffering=1)
        self._ready.wait()

    def edit(
        self, images: Sequence[Image.Image], request: EditRequest, on_step: OnStep
    ) -> list[Image.Image]:
        """Record the start of the job, on the clock that all processes share."""
        self._file.write(f"{request.seed} {time.monotonic()}\n")
        on_step(1, 1)
        return list(images)

    def close(self) -> None:
        """Close the record."""
        self._file.close()


def _work(spool: Path, index: int, ready: Barrier, burst: bool) -> None:
    """The main function of a worker process."""
    engine = Copier(ready, spool / f"starts-{index}")
    Worker(Settings(spool=spool), engine, Gpu(index, f"gpu{index}"), burst=burst).run()


@contextmanager
def _workers(spool: Spool, count: int, *, burst: bool) -> Iterator[list[SpawnProcess]]:
    """Run worker processes, which start to claim at the same time."""
    ready = spawn.Barrier(count + 1)
    workers = [
        spawn.Process(target=_work, args=(spool.root, index, ready, burst))
        for index in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        ready.wait(timeout=60)
        yield workers
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def no_op_jobs(options: Options) -> Iterator[Figure]:
    """No-op jobs per second that two worker processes move from `incoming/` to `done/`."""
    jobs = 10 if options.quick else 1500
    spool = new_spool(options.folder)
    _submit_rate(spool, _small_picture(spool), jobs)
    with _workers(spool, 2, burst=True) as workers:
        started = time.time()
        for worker in workers:
            worker.join()
    done = list(spool.done.iterdir())
    assert len(done) == jobs, f"{len(done)} of {jobs} are done"
    # The rename to done/ set the ctime of each folder.
    seconds = max(folder.stat().st_ctime for folder in done) - started
    yield Figure(
        "no-op jobs that survive kill -9, two worker processes",
        jobs / seconds,
        "/s",
        at_least=300,
        note="on such a machine: RQ 78-106/s, Celery 257/s",
    )


def _small_picture(spool: Spool) -> Path:
    path = spool.root / "small.png"
    path.write_bytes(encode(Image.new("RGB", (64, 64), "teal"), "png"))
    return path


# --- the wake-up ----------------------------------------------------------------------------------


def idle_start(options: Options) -> Iterator[Figure]:
    """The time from a submit to the start of the edit in an idle worker."""
    spool = new_spool(options.folder)
    with _workers(spool, 1, burst=False):
        time.sleep(0.5)  # until it is idle
        submitted = _submit_at_random_times(spool, 5 if options.quick else 200)
        started = _starts(spool, len(submitted))
    delays = sorted(1000 * (started[seed] - at) for seed, at in submitted.items())
    note = "on such a machine: huey 2, Celery 5, RQ 13 ms"
    yield Figure(
        "idle worker: submit to start of the edit, p50",
        percentile(delays, 0.5),
        "ms",
        at_most=5,
        note=note,
    )
    yield Figure("idle worker: submit to start of the edit, p99", percentile(delays, 0.99), "ms")


def _submit_at_random_times(spool: Spool, jobs: int) -> dict[int, float]:
    """Submit jobs 20 to 60 ms apart; return when each submit returned, by the job's seed."""
    picture, random = _small_picture(spool), Random(1)
    returned = {}
    for seed in range(jobs):
        time.sleep(random.uniform(0.02, 0.06))
        submit(
            spool, [picture], EditRequest(prompt="watercolour", seed=seed), max_pixels=MAX_PIXELS
        )
        returned[seed] = time.monotonic()
    return returned


def _starts(spool: Spool, jobs: int) -> dict[int, float]:
    """Wait until all edits have started, and return when, by the job's seed."""
    give_up_at = time.monotonic() + 30
    while time.monotonic() < give_up_at:
        lines = (spool.root / "starts-0").read_text().splitlines()
        if len(lines) == jobs:
            return {int(seed): float(at) for seed, at in (line.split() for line in lines)}
        time.sleep(0.05)
    raise TimeoutError(f"not all of {jobs} jobs have started")


# --- costs that must not depend on the size of the spool ------------------------------------------


def claims(options: Options) -> Iterator[Figure]:
    """The cost of a claim with its attempt file and its release, in a short and a long queue."""
    few, many = (_seconds_per_claim(options, waiting) for waiting in (FEW, _many(options)))
    yield Figure(f"claim + release, {FEW} waiting", 1000 * few, "ms")
    yield Figure(f"claim + release, {_many(options)} waiting", 1000 * many, "ms")
    yield Figure("claim: long queue against short", many / few, "x", at_most=1.5)


def _seconds_per_claim(options: Options, waiting: int) -> float:
    """Return the median of sixty claims after the first scan. Other processes share the disk and
    cause outliers."""
    spool = new_spool(options.folder)
    fill(spool, State.INCOMING, waiting)
    (spool.running / "bench.gpu0").mkdir()
    mine = Claims(spool, "bench.gpu0", max_attempts=3)
    return statistics.median([claim_and_release(mine) for _ in range(61)][1:])


def look_ups(options: Options) -> Iterator[Figure]:
    """The cost of a status, of a job that is not there, and of the newest job, with few jobs in
    `done/` and with many."""
    few, many = (_seconds_per_look(options, done) for done in (FEW, _many(options)))
    for look in LOOKS:
        yield Figure(f"{look}, {FEW} done", 1000 * few[look], "ms")
        yield Figure(f"{look}, {_many(options)} done", 1000 * many[look], "ms")
        yield Figure(f"{look}: many done against few", many[look] / few[look], "x", at_most=1.5)


def _status(spool: Spool, id: str) -> None:
    read_status(spool, id, queue=())


def _not_there(spool: Spool, _id: str) -> None:
    with suppress(NotFound):
        read_status(spool, new_id(), queue=())


def _newest(spool: Spool, _id: str) -> None:
    list_jobs(spool, limit=1)


LOOKS = {"status": _status, "a job that is not there": _not_there, "the newest job": _newest}


def _seconds_per_look(options: Options, done: int) -> dict[str, float]:
    spool = new_spool(options.folder)
    ids = fill(spool, State.DONE, done)
    time.sleep(SETTLED_NS / 1e9)  # of a folder that changes all the time the list is not kept
    return {
        name: statistics.median(_look_once(look, spool, id) for id in Random(1).choices(ids, k=500))
        for name, look in LOOKS.items()
    }


def _look_once(look: Callable[[Spool, str], None], spool: Spool, id: str) -> float:
    started = time.perf_counter()
    look(spool, id)
    return time.perf_counter() - started


def _many(options: Options) -> int:
    return 200 if options.quick else MANY


# --- the command ----------------------------------------------------------------------------------


def help_time(options: Options) -> Iterator[Figure]:
    """The wall time of `i2ii --help`."""
    runs = [_seconds_of_help() for _ in range(1 if options.quick else 7)]
    yield Figure("i2ii --help, wall time", statistics.median(runs), "s", at_most=0.3)


def _seconds_of_help() -> float:
    started = time.perf_counter()
    call = [sys.executable, "-m", "i2ii_spool", "--help"]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    report(options(__doc__), durable_submits, no_op_jobs, idle_start, claims, look_ups, help_time)
