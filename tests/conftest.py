"""What most tests stand on: a spool, pictures, and the service as real processes."""

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.submit import submit
from tests.machine import Machine, why_not

HERE = Path(__file__).parent
FAKE_DRIVER = HERE / "fake_driver"
MEMORY = Path("/dev/shm")
"""A file system in memory, where there is one: for tests that make more files than a disk does in
good time."""
MOUNTS = pytest.mark.xdist_group("mounts")
"""Tests that mount disks, or begin mount namespaces, run one after another: a namespace that begins
while a disk is mounted keeps a copy of the mount, and the disk cannot be taken away before it ends.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the soaks of many minutes as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes many minutes; ask for it with --long"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine's own reaches a test."""
    for name in list(os.environ):
        if name.startswith("I2II_") or name == "CUDA_VISIBLE_DEVICES":
            monkeypatch.delenv(name)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.create()
    return spool


def make_picture(path: Path, size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    """Write a picture with a gradient, so that every edit changes it; the format follows from the
    suffix."""
    ramp = Image.linear_gradient("L").resize(size)
    Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).save(path, **options)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return make_picture(tmp_path / "photo.jpg")


@pytest.fixture
def submit_job(spool: Spool, picture: Path) -> Callable[..., str]:
    """Submit the picture; the arguments are fields of the request."""

    def submit_one(**fields: Any) -> str:
        return submit(
            spool, [picture], EditRequest(**{"prompt": "sepia", **fields}), max_pixels=10**8
        )

    return submit_one


def wait_until(condition: Callable[[], Any], *, seconds: float = 20) -> Any:
    """Return the first true answer of `condition`, which another process brings about."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.01)
    return answer


class Service:
    """Real servers and workers on one spool; all are killed at the end of the test."""

    def __init__(self, root: Path) -> None:
        self.spool = Spool(root / "spool")
        self.spool.create()
        self.environment = {
            **os.environ,
            "I2II_SPOOL": str(self.spool.root),
            "I2II_SETTLE_SECONDS": "0.2",
            "I2II_ENGINE": "classic",
        }
        self.log = root / "service.log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start a process of ours with these settings in its environment."""
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
        return self.read_log().rpartition("listening on ")[2].split(",")[0]

    def work(
        self, unit: str = "0", *, engine: str = "", **settings: str
    ) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it is ready; `engine` names one of `engines_for_tests`,
        else classic works."""
        script = (
            [str(HERE / "engines_for_tests.py"), engine] if engine else ["-m", "i2ii_spool", "gpu"]
        )
        process = self.start(sys.executable, *script, unit, **settings)
        wait_until(
            lambda: any(
                status["pid"] == process.pid and status["state"] != "loading"
                for status in self.workers()
            )
        )
        return process

    def workers(self) -> list[dict[str, Any]]:
        """What the workers say of themselves."""
        return [json.loads(path.read_text()) for path in self.spool.workers.glob("*.json")]

    def read_log(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def stop_all(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.stop_all()


def cli(service: Service, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the `i2ii` command on the service's spool."""
    command = [sys.executable, "-m", "i2ii_spool", *arguments]
    return subprocess.run(
        command, env=service.environment, capture_output=True, text=True, check=check, timeout=60
    )


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


# --- a machine with systemd -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What to bind into a machine so that a wheel of this tree is installed there, in /opt/i2ii."""
    if reason := why_not():
        pytest.skip(f"no machine with systemd: {reason}")
    folder = tmp_path_factory.mktemp("installed")
    folder.chmod(0o755)
    wheel = build_wheel(folder / "source")
    python = Path(sys.executable).resolve()
    prefix = Path(sys.base_prefix)
    binds = [
        f"{folder}/env:/opt/i2ii",
        f"{site.getsitepackages()[0]}:/opt/dependencies",
        f"{HERE}:/opt/tests/tests",
    ]
    if prefix != Path("/usr"):  # it may lie in a home, which the units do not see
        binds.append(f"{prefix}:/opt/python")
        python = Path("/opt/python") / python.relative_to(prefix)
    (folder / "env").mkdir()
    with Machine([*binds, f"{wheel.parent}:/opt/wheel"]) as workshop:
        workshop.sh(
            f"{python} -m venv /opt/i2ii && /opt/i2ii/bin/pip install -q --no-index --no-deps /opt/wheel/*.whl"
        )
        workshop.sh(
            "echo /opt/dependencies > $(echo /opt/i2ii/lib/python*/site-packages)/dependencies.pth"
        )
    return binds


def _not_ours(folder: str, names: list[str]) -> set[str]:
    """What of the tree is not tracked by git, such as the spool and the environment."""
    at_top = {"spool", "build"} if Path(folder) == HERE.parent else set()
    return {
        name
        for name in names
        if name.startswith(".") or name.endswith(".egg-info") or name in at_top
    }


def build_wheel(source: Path, version: str | None = None) -> Path:
    """Build a wheel of this tree, of another version if that is asked for."""
    shutil.copytree(HERE.parent, source, symlinks=True, ignore=_not_ours)
    if version is not None:
        (source / "i2ii_spool/__init__.py").write_text(f'__version__ = "{version}"\n')
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", source / "wheel", source],
        check=True,
    )
    return next((source / "wheel").glob("*.whl"))


@pytest.fixture
def machine(installed: list[str]) -> Iterator[Machine]:
    """A machine on which i2ii is installed, and no unit of it."""
    with Machine(installed) as running:
        yield running
