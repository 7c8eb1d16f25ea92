"""What the benchmarks share: options, spools of any size, figures, facts about the machine."""

import argparse
import atexit
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool.jobs.folder import JOB, RESULT
from i2ii_spool.jobs.ids import new_id
from i2ii_spool.jobs.records import Result, Timings
from i2ii_spool.jobs.request import Job
from i2ii_spool.spool.claim import Claims
from i2ii_spool.spool.layout import Spool, State

# ext4 allows an inode 65 000 names.
MAX_LINKS = 50_000


@dataclass(frozen=True)
class Options:
    """The command line of a benchmark."""

    folder: Path
    """The parent of the spools, on the disk to measure."""
    quick: bool
    """Only check that the benchmark runs."""
    as_json: bool
    large: bool


def options(description: str, *, large: str | None = None) -> Options:
    """Parse the command line. `large` is the help text of `--large`, if the benchmark has it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(),
        help="a directory on the disk to measure  [default here]",
    )
    parser.add_argument(
        "--quick", action="store_true", help="smoke test: the figures are meaningless"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    if large is not None:
        parser.add_argument("--large", action="store_true", help=large)
    given = parser.parse_args()
    return Options(given.dir.absolute(), given.quick, given.json, getattr(given, "large", False))


def new_spool(folder: Path) -> Spool:
    """Create a spool in a new folder, which is removed after all benchmarks.

    Not earlier: ext4 without a journal skips every inode freed within the last minute, or six
    minutes while the deletion is not on disk. After a hundred thousand deletions each new file
    costs up to a millisecond.
    """
    root = Path(tempfile.mkdtemp(prefix=".i2ii-benchmark-", dir=folder))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    spool = Spool(root / "spool")
    spool.create()
    return spool


def claim_and_release(mine: Claims) -> float:
    """Claim a job, count its attempt, and give it back; return the seconds that it took."""
    started = time.perf_counter()
    claim = mine.next()
    assert claim is not None
    claim.release(uncount_attempt=True)
    return time.perf_counter() - started


# --- many jobs ------------------------------------------------------------------------------------


def fill(spool: Spool, state: State, count: int) -> list[str]:
    """Put `count` jobs into `incoming/` or `done/`, and return their ids.

    For speed nothing is fsynced, and the files are hard links to templates. A hundred thousand jobs
    take about ten seconds.
    """
    files = _files(state)
    ids = [new_id() for _ in range(count)]
    template = spool.root / "template"
    for index, id in enumerate(ids):
        if index % MAX_LINKS == 0:
            _write_template(template, files)
        folder = f"{spool.root}/{state}/{id}"
        os.mkdir(folder)
        for name in files:
            os.link(f"{template}/{name}", f"{folder}/{name}")
    shutil.rmtree(template)
    os.sync()  # else the fsyncs of the next measurement would wait for these writes
    return ids


def _write_template(template: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(template, ignore_errors=True)
    template.mkdir()
    for name, data in files.items():
        (template / name).write_bytes(data)


def _files(state: State) -> dict[str, bytes]:
    """Return the files that a claim or a status needs."""
    record = Job(prompt="watercolour", inputs=("input.jpg",), submitted_at=_LONG_AGO)
    return {JOB: record.to_json()} | ({RESULT: _RESULT.to_json()} if state is State.DONE else {})


_LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
_RESULT = Result(
    outputs=("result.png",),
    width=1024,
    height=768,
    seed=0,
    attempt=1,
    worker="node.gpu0",
    gpu_id=0,
    completed_at=_LONG_AGO,
    timings=Timings(queue=1.0, load=0.01, edit=1.0, save=0.1),
    engine="none",
    model="none",
    revision="",
    versions={},
)


# --- figures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One measured value and its limit."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    """Results of other software on a machine like this."""

    @property
    def met(self) -> bool:
        """True if the value is within its limits."""
        return (
            (self.at_least or 0)
            <= self.value
            <= (float("inf") if self.at_most is None else self.at_most)
        )

    def to_line(self) -> str:
        """Format the figure as a line, and its note as another."""
        digits = 0 if self.value >= 1000 else 1 if self.value >= 100 else 2
        value = f"{self.value:>9.{digits}f}"
        line = f"{self.name:<62} {value} {self.unit:<6}{self._verdict()}".rstrip()
        return line + (f"\n    {self.note}" if self.note else "")

    def _verdict(self) -> str:
        if self.at_least is None and self.at_most is None:
            return ""
        bar = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"  bar {bar}: {'met' if self.met else 'MISSED'}"


Benchmark = Callable[[Options], Iterator[Figure]]


def report(options: Options, *benchmarks: Benchmark) -> None:
    """Run the benchmarks in turn, and print each figure at once."""
    machine = describe_machine(options.folder)
    if options.as_json:
        figures = [
            {**asdict(figure), "met": figure.met} for each in benchmarks for figure in each(options)
        ]
        print(
            json.dumps({"machine": machine, "quick": options.quick, "figures": figures}, indent=2)
        )
        return
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    for each in benchmarks:
        for figure in each(options):
            print(figure.to_line(), flush=True)


def describe_machine(folder: Path) -> dict[str, str]:
    """Return the facts about this machine that the figures depend on."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "Python": platform.python_version(),
        "kernel": platform.release(),
        "filesystem": file_system_of(folder),
    }


def file_system_of(folder: Path) -> str:
    """Return the type of the file system of `folder`: `ext4`, `ext4 without journal`, `xfs`..."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, rest = line.partition(" - ")
        if mount.split()[2] == number:
            return rest.split()[0] + ("" if _has_journal(number) else " without journal")
    return "unknown"


def _has_journal(number: str) -> bool:
    name = Path(f"/sys/dev/block/{number}").resolve().name
    task = Path(f"/sys/fs/ext4/{name}/journal_task")
    return not task.exists() or task.read_text().strip() != "<none>"
