"""All of this lane on a real NFSv4.2 server with two real clients, which run in a kernel that is a
process."""

import sys
import time
from pathlib import Path

import pytest

from tests.support import TESTS
from tests.support.uml import fetch_packages, run_with_nfs, why_not

pytestmark = [pytest.mark.xdist_group("nfs"), pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := why_not():
        pytest.skip(f"no kernel as a process: {reason}")
    return fetch_packages(tmp_path_factory.mktemp("nfs"))


ALL = ("daemons", "doctor", "hosts", "lost_claims", "storm", "unreachable")
CACHED = ("hosts", "lost_claims")
"""What depends on what a client has cached."""


@pytest.mark.parametrize(
    ("mount_options", "parts"),
    [
        pytest.param("", ALL, id="default"),
        pytest.param("lookupcache=none,actimeo=1", CACHED, id="uncached", marks=pytest.mark.long),
    ],
)
def test_all_holds_on_nfs(
    packages: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    mount_options: str,
    parts: tuple[str, ...],
) -> None:
    long = ["--long"] if request.config.getoption("--long") else []
    started = time.monotonic()
    ended = run_with_nfs(
        packages,
        tmp_path / "uml",
        *(sys.executable, "-m", "pytest", "--shared=nfs", "-p", "no:cacheprovider", "-rA"),
        *("--durations=8", *long, *(f"{TESTS}/shared/test_{part}.py" for part in parts)),
        mount_options=mount_options,
        seconds=2300,
    )
    print(f"{ended.output}\n{time.monotonic() - started:.0f} s, with the boot")
    assert ended.code == 0, "the tests inside have failed: their output is above"


def test_no_part_is_left_out() -> None:
    files = {path.stem for path in (TESTS / "shared").glob("test_*.py")}
    assert files - {"test_nfs", "test_fuse"} == {f"test_{part}" for part in ALL}
