"""The service as real processes.

    service = Service(tmp_path)
    url = service.serve(max_queue="3")
    service.work(engine="slow")
    cli(service, "ls", "--json").stdout
    service.stop_all()

The fixture `service` makes one and stops it. `wait_until` waits for what another process does.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from i2ii_spool.jobs.folder import read_record
from i2ii_spool.spool.layout import Spool
from tests.support import STUB_ENGINES


def wait_until(condition: Callable[[], Any], *, seconds: float = 20) -> Any:
    """Return the first true answer of `condition`, which another process brings about."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.01)
    return answer


def is_setting(variable: str) -> bool:
    """Whether the variable changes what i2ii does: the machine's own must not reach a test."""
    return variable.startswith("I2II_") or variable == "CUDA_VISIBLE_DEVICES"


class Service:
    """Real servers and workers on one spool, until `stop_all`."""

    def __init__(self, root: Path, spool: Spool | None = None) -> None:
        self.spool = spool or Spool(root / "spool")
        self.spool.create()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not is_setting(name)},
            "I2II_SPOOL": str(self.spool.root),
            "I2II_SETTLE_SECONDS": "0.2",
            "I2II_ENGINE": "classic",
        }
        self.log = root / "service.log"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.url = ""
        """Of the server that was started last."""

    def start(self, *command: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start a process with these settings in its environment."""
        variables = {f"I2II_{name.upper()}": value for name, value in settings.items()}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**self.environment, **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def serve(self, **settings: str) -> str:
        """Start a server on a free port; return its URL once it listens."""
        before = self.read_log().count("listening on ")
        self.start(sys.executable, "-m", "i2ii_spool", "serve", "--port", "0", **settings)
        wait_until(lambda: self.read_log().count("listening on ") > before)
        self.url = self.read_log().rpartition("listening on ")[2].split(",")[0]
        return self.url

    def serve_again(self) -> None:
        """Start a server at the port of the last one, which has ended."""
        before = self.read_log().count("listening on ")
        port = self.url.rpartition(":")[2]
        self.start(sys.executable, "-m", "i2ii_spool", "serve", "--port", port)
        wait_until(lambda: self.read_log().count("listening on ") > before)

    def work(
        self, unit: str = "0", *, engine: str = "", **settings: str
    ) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it is ready; `engine` names one of `stub_engines`,
        else classic works."""
        script = [STUB_ENGINES, engine] if engine else ["-m", "i2ii_spool", "gpu"]
        process = self.start(sys.executable, *script, unit, **settings)
        wait_until(
            lambda: any(
                status["pid"] == process.pid and status["state"] != "loading"
                for status in self.workers()
            )
        )
        return process

    def workers(self) -> list[dict[str, Any]]:
        """The status files of the workers."""
        return [json.loads(read_record(path)) for path in self.spool.workers.glob("*.json")]

    def read_log(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def stop_all(self) -> None:
        """Kill all processes. Where coverage is measured they may end first: a killed process
        writes no data."""
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            self._terminate_all()
        for process in self.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait()

    def _terminate_all(self) -> None:
        for _ in range(2):  # the second one has a worker release its job
            for process in self.processes:
                if process.poll() is None:
                    process.terminate()
            time.sleep(0.1)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(each.poll() is None for each in self.processes):
            time.sleep(0.01)


def cli(service: Service, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the `i2ii` command on the service's spool."""
    command = [sys.executable, "-m", "i2ii_spool", *arguments]
    return subprocess.run(
        command, env=service.environment, capture_output=True, text=True, check=check, timeout=60
    )


def get_json(url: str) -> Any:
    return json.loads(get_text(url))


def get_text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
        return text
