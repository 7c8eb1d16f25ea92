"""Lose the power at any moment, on three kinds of disk, in every way that each allows; each fsync
is there for one."""

import ast
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from i2ii_spool.spool import durable_io
from i2ii_spool.spool.layout import Spool
from tests.support.power_loss import History, Model, State
from tests.support.promises import Promises, check
from tests.support.recording_disk import Op, RecordingDisk
from tests.support.scenarios import SCENARIOS, begin, end

ROOTS = itertools.count()


@dataclass
class Recording:
    """The second half of a scenario: its system calls, and what was promised after each."""

    root: Path
    """As the disk was before."""
    ops: list[Op]
    promises: list[tuple[int, bytes]]

    def promised_after(self, calls: int) -> bytes:
        return [b"", *(text for at, text in self.promises if at <= calls)][-1]

    def blows(self, model: Model, without: str = "") -> Iterator[tuple[int, State]]:
        """All that the disk may hold, after how many calls; `without` the fsyncs of that site."""
        history = History.of(self.root)
        seen = set()
        for calls in range(len(self.ops) + 1):
            if calls and not (without and self.ops[calls - 1].site == without):
                history.do(calls, self.ops[calls - 1], model)
            if model is Model.HALVED and self._is_moving(calls):
                continue
            for state in history.states(model):
                key = (state.key(), self.promised_after(calls))
                if key not in seen:
                    seen.add(key)
                    yield calls, state

    def _is_moving(self, calls: int) -> bool:
        """Whether a job is being moved: its rename has been made, and is not durable yet."""
        return (
            calls < len(self.ops)
            and self.ops[calls].call == "fsync"
            and " move" in self.ops[calls].site
        )


def record(name: str, root: Path) -> Recording:
    spool = Spool(root / "spool")
    disk = RecordingDisk(spool.root)
    told: list[tuple[int, bytes]] = []
    going = begin(name, spool, Promises(lambda text: told.append((len(disk.ops), text))))
    shutil.copytree(spool.root, root / "before")
    end(going, disk)
    return Recording(root / "before", disk.ops, told)


def violations(recording: Recording, root: Path, model: Model, without: str = "") -> Iterator[str]:
    """What is wrong after each blow that breaks a promise."""
    numbers = itertools.count()
    for calls, state in recording.blows(model, without):
        if state.doubled:
            yield f"after {calls} calls the disk knows one folder by two names: {state.doubled}"
            continue
        spool = Spool(root / str(next(numbers)))
        state.write(spool.root)
        try:
            check(spool, Promises.told(recording.promised_after(calls)))
        except Exception as error:  # a torn record, a missing file
            yield f"after {calls} calls, {recording.ops[max(0, calls - 1)]}: {error!r}"


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fsynced here is a model of a disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("model", Model)
@pytest.mark.parametrize("name", SCENARIOS)
def test_power_loss_at_any_moment_breaks_no_promise(
    name: str, model: Model, tmp_path: Path
) -> None:
    recording = record(name, tmp_path)
    assert not list(itertools.islice(violations(recording, tmp_path / "after", model), 3))


def test_without_any_one_fsync_a_promise_would_break(tmp_path: Path) -> None:
    recordings = {name: record(name, tmp_path / name) for name in SCENARIOS}
    sites = {op.site for recording in recordings.values() for op in recording.ops if op.site}
    needless = [site for site in sorted(sites) if not is_needed(site, recordings, tmp_path)]
    assert not needless, "\n" + "\n".join(needless)
    untried = places_in_the_code() - {site.split()[0] for site in sites}
    assert not untried, f"no scenario reaches {untried}"


def places_in_the_code() -> set[str]:
    """Where the protocol asks for an fsync."""
    asking = {
        "fsync",
        "sync_file",
        "sync_folder",
        "write_file",
        "write_new",
        "write_marker",
        "move",
    }
    places = set()
    for module in Path(durable_io.__file__).parent.glob("*.py"):
        calls = [
            node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)
        ]
        names = [
            (getattr(call.func, "attr", getattr(call.func, "id", "")), call.lineno)
            for call in calls
        ]
        places |= {f"spool/{module.name}:{line}" for name, line in names if name in asking}
    return {place for place in places if not place.startswith("spool/durable_io.py")}


def is_needed(site: str, recordings: dict[str, Recording], root: Path) -> bool:
    """Whether a promise breaks in a scenario on a model of a disk if this place makes no fsync."""
    where = [
        name
        for name, recording in recordings.items()
        if any(op.site == site for op in recording.ops)
    ]
    return any(
        next(violations(recordings[name], root / str(next(ROOTS)), model, without=site), None)
        for name in where
        for model in Model
    )
