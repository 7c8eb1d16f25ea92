"""What the benchmarks share: their options, the machine they ran on, spools of any size, and how
figures are shown."""

import argparse
import atexit
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool.jobs.folder import JOB, RESULT
from i2ii_spool.jobs.ids import new_id
from i2ii_spool.jobs.records import Result, Timings
from i2ii_spool.jobs.request import Job
from i2ii_spool.spool.layout import Spool, State

# ext4 allows an inode 65 000 names.
MAX_LINKS = 50_000


@dataclass(frozen=True)
class Options:
    """How a benchmark was called."""

    folder: Path
    """Where spools are made: it must be on the disk that is to be measured."""
    quick: bool
    """Only see that it runs."""
    as_json: bool
    large: bool


def options(what: str, *, large: str | None = None) -> Options:
    """Read the command line. `large` is the help of `--large`, for a benchmark that has it."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(),
        help="a directory on the disk to measure  [default here]",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run: the figures mean nothing"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    if large is not None:
        parser.add_argument("--large", action="store_true", help=large)
    given = parser.parse_args()
    return Options(given.dir.absolute(), given.quick, given.json, getattr(given, "large", False))


def new_spool(folder: Path) -> Spool:
    """A spool in a folder of its own, which is removed when all benchmarks have run.

    Not before: ext4 without a journal passes over every inode that was freed within the last
    minute, or within six while that is not on disk yet. After a hundred thousand deletions each new
    file costs it up to a millisecond.
    """
    root = Path(tempfile.mkdtemp(prefix=".i2ii-benchmark-", dir=folder))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    spool = Spool(root / "spool")
    spool.create()
    return spool


# --- many jobs ------------------------------------------------------------------------------------


def fill(spool: Spool, state: State, count: int) -> list[str]:
    """Put `count` jobs into `incoming/` or `done/`, and return their ids.

    Nothing is fsynced, and their files are hard links to a few templates: this makes a spool that
    is full, not one that is safe. A hundred thousand take some ten seconds.
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
    os.sync()  # or what is measured next would wait for these as well
    return ids


def _write_template(template: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(template, ignore_errors=True)
    template.mkdir()
    for name, data in files.items():
        (template / name).write_bytes(data)


def _files(state: State) -> dict[str, bytes]:
    """What a job needs to be claimed, or to have its status read, and no more."""
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
    """One thing measured, and what it must be at least or at most."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    """What others did on such a machine."""

    @property
    def met(self) -> bool:
        """Whether it is as good as it must be."""
        return (
            (self.at_least or 0)
            <= self.value
            <= (float("inf") if self.at_most is None else self.at_most)
        )

    def to_line(self) -> str:
        """As one line of text, and one more for the note."""
        line = f"{self.name:<62} {self.value:>9.{_digits(self.value)}f} {self.unit:<6}{self._verdict()}".rstrip()
        return line + (f"\n    {self.note}" if self.note else "")

    def _verdict(self) -> str:
        if self.at_least is None and self.at_most is None:
            return ""
        bar = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"  bar {bar}: {'met' if self.met else 'MISSED'}"


def _digits(value: float) -> int:
    return 0 if value >= 1000 else 1 if value >= 100 else 2


Benchmark = Callable[[Options], Iterator[Figure]]


def report(options: Options, *benchmarks: Benchmark) -> None:
    """Run the benchmarks one after the other, and print each figure as soon as it is known."""
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
    """What the figures depend on."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "Python": platform.python_version(),
        "kernel": platform.release(),
        "filesystem": file_system_of(folder),
    }


def file_system_of(folder: Path) -> str:
    """The type of the file system in which `folder` lies: `ext4`, `xfs`, `tmpfs`; an ext4 may have
    no journal."""
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
