"""Simulate many workers on one spool: where a shared file system limits them.

    python -m benchmarks.hosts A B --json >measured.json
    python -m benchmarks.hosts_simulation measured.json

From the run of one worker it first computes what several would do on that machine, beside what they
did; then what a farm would do, whose file server is as given.

It assumes:

- The file server answers calls one after another, `Machines.capacity` of them a second. Each also
  takes `latency` on its way. A worker makes its calls one after another.
- A look at the queue, a claim that is lost, a job, and a second of a worker take as many calls as
  `benchmarks.hosts` counted (`Calls`). A listing takes one for so many names.
- A worker takes the oldest job that it knows of. It knows of those that its last look showed, looks
  again after a second, or after fifty times what a look takes, and learns that one is gone by
  losing the race for it. It then draws among the oldest, as `Claims` does.
- Every edit takes the same time. No worker dies, no job arrives, no client asks for a status, and
  the calls for guests (folders put in by hand) are not counted.
"""

import argparse
import heapq
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from random import Random

from benchmarks.hosts import EDITS as JOBS_MEASURED
from i2ii_spool.spool.claim import MAX_SPREAD, RESCAN_FACTOR, RESCAN_SECONDS

JOBS_OF_A_WORKER = 10
"""That are simulated, unless fewer wait."""
EDITS = (2, 20)
WORKERS = (8, 100, 200, 300, 1000)
WAITING = (10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Calls:
    """Remote procedure calls, as `benchmarks.hosts` counted them."""

    job: float
    """From the claim to the end, without lost races."""
    lost_race: float
    look: float
    """At an empty queue."""
    names: float
    """Of a listing, in one call."""
    second: float
    """Of a worker that waits, or edits."""


@dataclass(frozen=True)
class Machines:
    """What all workers share."""

    capacity: float
    """Calls that the file server answers in a second."""
    latency: float
    """Seconds of a call besides."""
    cpu: float
    """Seconds of the processor for a job."""
    is_shared: bool = False
    """Whether the server and all workers have one processor together, not one each."""


@dataclass(frozen=True)
class Case:
    """What is simulated."""

    workers: int
    edit: float
    """Seconds."""
    waiting: int
    """Jobs at the start."""


@dataclass(frozen=True)
class Outcome:
    """What a simulation shows."""

    rate: float
    """Jobs a second."""
    share: float
    """Of the time of all workers in which they edit."""
    races: float
    """Lost for each job."""
    calls: float
    """A second."""
    load: float
    """The share of its time in which the server is busy."""


class _Queue:
    """Something that does one thing after another."""

    def __init__(self) -> None:
        self._free_at = 0.0
        self.busy = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """Return when it has done something of so many seconds."""
        self._free_at = max(self._free_at, now) + seconds
        self.busy += seconds
        return self._free_at


@dataclass
class _Worker:
    look_at: float = 0.0
    """When it is to look at the queue again."""
    looked_at: float = -1.0
    known: list[int] = field(default_factory=list)
    """The oldest jobs that its last look showed and that it has not tried."""
    next: int = 0
    """The job behind them; all that are younger, and were not taken then, are known as well."""
    spread: int = 1
    """It draws among so many."""


class Simulation:
    """One case; `run` once."""

    def __init__(self, calls: Calls, machines: Machines, case: Case) -> None:
        self._cost, self._machines, self._case = calls, machines, case
        self._server = _Queue()
        self._workers = [_Worker() for _ in range(case.workers)]
        self._random = Random(1)
        self._taken_at = [math.inf] * case.waiting
        self._oldest = 0
        """All jobs before this one are taken."""
        self._calls = 0.0
        self._races = 0

    def run(self) -> Outcome:
        """Simulate the case. Of the jobs, the first quarter does not count: the workers start."""
        case = self._case
        jobs = min(case.waiting, case.workers * JOBS_OF_A_WORKER)
        agenda = [(self._random.random() * (case.edit + 1), n) for n in range(case.workers)]
        heapq.heapify(agenda)
        began = self._counts(0.0)
        now, claimed = 0.0, 0
        while claimed < jobs:
            now, number = heapq.heappop(agenda)
            then = self._step(now, self._workers[number])
            if then is None:
                claimed += 1
                then = self._work(now)
                if claimed == jobs // 4:
                    began = self._counts(now)
            heapq.heappush(agenda, (then, number))
        counted = jobs - jobs // 4
        seconds, races, calls, busy = (
            after - before for after, before in zip(self._counts(now), began, strict=True)
        )
        return Outcome(
            rate=counted / seconds,
            share=min(1.0, counted / seconds * case.edit / case.workers),
            races=races / counted,
            calls=calls / seconds,
            load=min(1.0, busy / seconds),
        )

    def _counts(self, now: float) -> tuple[float, float, float, float]:
        return now, self._races, self._calls, self._server.busy

    def _ask(self, now: float, calls: float) -> float:
        """Return when the server has answered these calls, made one after another."""
        self._calls += calls
        machines = self._machines
        alone = now + calls * (machines.latency + 1 / machines.capacity)
        return max(alone, self._server.serve(now, calls / machines.capacity) + machines.latency)

    def _step(self, now: float, worker: _Worker) -> float | None:
        """Return when the worker is to try again, or None if it has claimed a job now."""
        if now >= worker.look_at:
            return self._look(now, worker)
        job = self._draw(worker)
        if job is None:
            return worker.look_at
        if self._taken_at[job] < math.inf:
            self._races += 1
            worker.spread = min(2 * worker.spread, MAX_SPREAD)
            return self._ask(now, self._cost.lost_race)
        self._taken_at[job] = now
        worker.spread = max(1, worker.spread // 2)
        return None

    def _look(self, now: float, worker: _Worker) -> float:
        """Return when the worker knows what waits now."""
        while self._oldest < len(self._taken_at) and self._taken_at[self._oldest] < math.inf:
            self._oldest += 1
        waiting = self._case.waiting - self._oldest
        then = self._ask(now, self._cost.look + waiting / self._cost.names)
        worker.look_at = now + max(RESCAN_SECONDS, RESCAN_FACTOR * (then - now))
        worker.looked_at, worker.known, worker.next = now, [], self._oldest
        return then

    def _draw(self, worker: _Worker) -> int | None:
        """Return one of the oldest jobs that the worker knows of, or None if it knows of none."""
        while len(worker.known) < worker.spread and worker.next < len(self._taken_at):
            if self._taken_at[worker.next] > worker.looked_at:
                worker.known.append(worker.next)
            worker.next += 1
        if not worker.known:
            return None
        return worker.known.pop(self._random.randrange(min(worker.spread, len(worker.known))))

    def _work(self, now: float) -> float:
        """Return when the job that a worker has claimed is done."""
        case, machines = self._case, self._machines
        then = self._ask(now, self._cost.job)
        if machines.is_shared:
            then = max(then, self._server.serve(now, machines.cpu))
        else:
            then += machines.cpu
        background = self._cost.second * case.edit
        self._calls += background
        self._server.serve(now, background / machines.capacity)
        return then + case.edit


# --- what was measured ----------------------------------------------------------------------------


class Measured:
    """The figures of a run of `benchmarks.hosts`, by their names."""

    def __init__(self, file: Path) -> None:
        figures = json.loads(file.read_text())["figures"]
        self._values: dict[str, float] = {each["name"]: each["value"] for each in figures}

    def calls(self) -> Calls:
        """The calls that it counted. Raises `KeyError` if it was no run on NFS."""
        look = self._values["RPCs: a look at the queue, 100 waiting"]
        most = max(self._numbers(r"RPCs: a look at the queue, (\d+) waiting"))
        long = self._values[f"RPCs: a look at the queue, {most} waiting"]
        return Calls(
            job=self._values["RPCs: a job, 1 workers on 1 host, 0.0 s an edit"],
            lost_race=self._values["RPCs: a lost race"],
            look=look,
            names=(most - 100) / (long - look),
            second=self._values["RPCs: an idle worker, a second"],
        )

    def machines(self) -> Machines:
        """Its machine, where server and workers share a processor, from one worker's run."""
        claim = "claim + release, 100 waiting"
        seconds = self._values[claim] / 1000 / self._values[f"RPCs: {claim}"]
        job = 1 / self._values["1 workers on 1 host, 0.0 s an edit"]
        cpu = job - seconds * self.calls().job
        return Machines(capacity=1 / seconds, latency=0, cpu=cpu, is_shared=True)

    def runs(self) -> Iterator[tuple[int, float, float, float]]:
        """Workers on two hosts, seconds of an edit, jobs a second, and calls for each job."""
        for name, rate in self._values.items():
            if match := re.fullmatch(r"(\d+) workers on 2 hosts, ([\d.]+) s an edit", name):
                calls = self._values[f"RPCs: a job, {name}"]
                yield int(match[1]), float(match[2]), rate, calls

    def _numbers(self, name: str) -> list[int]:
        matches = (re.fullmatch(name, each) for each in self._values)
        return [int(match[1]) for match in matches if match]


def check(measured: Measured) -> Iterator[str]:
    """Compare the simulation with what was measured."""
    yield "workers   edit  measured  simulated  calls for each job: measured  simulated"
    for workers, edit, rate, calls in measured.runs():
        case = Case(workers, edit, waiting=workers * JOBS_MEASURED[edit])
        one = Simulation(measured.calls(), measured.machines(), case).run()
        each = one.calls / one.rate
        yield f"{workers:7} {edit:5.1f}s {rate:7.2f}/s {one.rate:8.2f}/s {calls:29.0f} {each:10.0f}"


def farm(calls: Calls, machines: Machines) -> Iterator[str]:
    """Simulate a farm of growing size."""
    yield "workers   edit  waiting       jobs  editing    races    calls  server"
    for edit in EDITS:
        for workers in WORKERS:
            for waiting in WAITING:
                one = Simulation(calls, machines, Case(workers, edit, waiting)).run()
                yield (
                    f"{workers:7} {edit:5.0f}s {waiting:8} {one.rate:8.2f}/s {one.share:6.0%} "
                    f"{one.races:8.2f} {one.calls:7.0f}/s {one.load:6.0%}"
                )
    idle = machines.capacity / (calls.second + calls.look)
    yield f"the server is busy with {idle:.0f} workers for which no job waits"


def _main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measured", type=Path, help="what benchmarks.hosts --json has printed")
    parser.add_argument(
        "--capacity", type=float, default=20_000, help="calls a second of the farm's file server"
    )
    parser.add_argument("--latency", type=float, default=0.5, help="milliseconds of a call there")
    parser.add_argument("--cpu", type=float, default=30, help="milliseconds of a job there")
    given = parser.parse_args()
    measured = Measured(given.measured)
    machines = Machines(given.capacity, given.latency / 1000, given.cpu / 1000)
    for line in chain(check(measured), [""], farm(measured.calls(), machines)):
        print(line, flush=True)


if __name__ == "__main__":
    _main()
