"""Processes that are killed and started again, and where their jobs end.

    group = ProcessGroup(service, {"server": SERVER, "gpu0": (WORKER, "quick", "0")}, chance)
    group.kill_some()
    assert is_dry(service.spool)
    check_done(service.spool.done / id)

`places` yields each job with its state.
"""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.spool.layout import Spool
from tests.support import STUB_ENGINES
from tests.support.service import Service

MAX_ATTEMPTS = 3
SERVER = ("-m", "i2ii_spool", "serve", "--port", "0")
WORKER = STUB_ENGINES


class ProcessGroup:
    """The processes of a service: each may be killed, and is started again at once."""

    deaths: tuple[int, ...] = (-signal.SIGKILL,)
    """The exit codes that are allowed."""

    def __init__(
        self, service: Service, commands: Mapping[str, tuple[str, ...]], chance: random.Random
    ) -> None:
        self._service = service
        self._commands = commands
        self._chance = chance
        self._running = {name: self._start(name) for name in commands}
        self.kills = dict.fromkeys(commands, 0)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        return self._service.start(
            sys.executable, *self._commands[name], max_attempts=str(MAX_ATTEMPTS)
        )

    def kill_some(self) -> None:
        """Kill one of them, or now and then all of them at the same moment."""
        everyone = self._chance.random() < 0.1
        self.kill(list(self._commands) if everyone else [self._chance.choice(list(self._commands))])

    def kill(self, names: Sequence[str]) -> None:
        """Kill these at the same moment, and start them again."""
        self.check_alive()
        for name in names:
            self._running[name].kill()
        for name in names:
            assert self._running[name].wait() in self.deaths
            self._running[name] = self._start(name)
            self.kills[name] += 1

    def check_alive(self) -> None:
        """None of them has ended by itself."""
        for name, process in self._running.items():
            ended = process.poll()
            assert ended is None, (
                f"{name} ended by itself, with code {ended}:\n{self._service.read_log()[-4000:]}"
            )


# --- where jobs end up ----------------------------------------------------------------------------


def places(spool: Spool, *states: str) -> Iterator[tuple[str, str]]:
    """Every job folder of the spool, or of some of its states, as its state and its id."""
    for state in states or ("incoming", "running", "done", "failed"):
        for folder in spool.root.glob("running/*/*" if state == "running" else f"{state}/*"):
            yield state, folder.name


def is_dry(spool: Spool) -> bool:
    """Whether no job waits or runs."""
    return not list(
        places(spool, "incoming", "running", "incoming")
    )  # a running job may move back between two looks


def check_done(folder: Path) -> int:
    """A done job has all that its result names, and none was begun again after it; return the
    attempts."""
    result = json.loads((folder / "result.json").read_text())
    request = json.loads((folder / "job.json").read_text())
    assert len(result["outputs"]) == request["n"], folder
    for name in result["outputs"]:
        with Image.open(folder / name) as picture:
            picture.load()
            assert picture.size == (result["width"], result["height"]), folder / name
    assert not (folder / "error.json").exists(), folder
    assert result["attempt"] == len(JobFolder(folder).attempts()), folder
    return len(JobFolder(folder).attempts())
