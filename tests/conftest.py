"""Fixtures and options of all lanes; the functions that tests call are in `tests.support`."""

import os
import signal
import site
import sys
import sysconfig
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.support")

from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.submit import submit
from tests.support import TESTS
from tests.support.machine import Machine, build_wheel, why_not
from tests.support.pictures import make_picture
from tests.support.service import Service, is_setting

# How long an example takes is the machine's matter.
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", SLOW, max_examples=10)
settings.register_profile("gate", SLOW, max_examples=100)
settings.load_profile("gate" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the soaks of many minutes as well")
    parser.addoption(
        "--shared",
        metavar="KIND",
        default="local",
        help="the kind of file system that tests/shared has two hosts share",
    )


def pytest_configure() -> None:
    # A shell has its background jobs ignore it, and what they start: no test could stop a command.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        lane = item.path.relative_to(TESTS).parts[0]
        item.add_marker(lane)
        if lane in ("machine", "slurm"):
            # A mount namespace that begins while a disk is mounted keeps a copy of the mount, and
            # the disk cannot be unmounted before it ends: so these run one after another.
            item.add_marker(pytest.mark.xdist_group("mounts"))
        if "long" in item.keywords:
            item.add_marker(pytest.mark.timeout(7200))
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes many minutes; ask for it with --long"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes of a failed test have logged."""
    report = yield
    service = getattr(item, "funcargs", {}).get("service")
    if report.failed and isinstance(service, Service):
        report.sections.append(("the end of service.log", service.read_log()[-4000:]))
    return report


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine reaches a test."""
    for name in list(os.environ):
        if is_setting(name):
            monkeypatch.delenv(name)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.create()
    return spool


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


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.stop_all()


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
        f"{TESTS}:/opt/tests/tests",
    ]
    if prefix != Path("/usr"):  # it may lie in a home, which the units do not see
        binds.append(f"{prefix}:/opt/python")
        if sysconfig.get_config_var("Py_ENABLE_SHARED"):  # it looks for its library in that home
            library = sysconfig.get_config_var("INSTSONAME")
            system = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH') or ''}"
            binds.append(f"{prefix}/lib/{library}:{system}/{library}")
        python = Path("/opt/python") / python.relative_to(prefix)
    (folder / "env").mkdir()
    with Machine([*binds, f"{wheel.parent}:/opt/wheel"]) as workshop:
        workshop.sh(
            f"{python} -m venv /opt/i2ii && /opt/i2ii/bin/pip install -q --no-index "
            "--no-deps /opt/wheel/*.whl"
        )
        workshop.sh(
            "echo /opt/dependencies > $(echo /opt/i2ii/lib/python*/site-packages)/dependencies.pth"
        )
    return binds


@pytest.fixture
def machine(installed: list[str]) -> Iterator[Machine]:
    """A machine on which i2ii is installed, and no unit of it."""
    with Machine(installed) as running:
        yield running
