"""All of this lane on file systems whose servers are processes of this machine, with two mounts."""

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.shared.test_nfs import ALL
from tests.support import ROOT, TESTS
from tests.support.gluster import why_not as why_not_gluster
from tests.support.juicefs import why_not as why_not_juicefs
from tests.support.moosefs import why_not as why_not_moosefs

# A mount that another test makes meanwhile may not be unmounted while a name space has a copy.
pytestmark = [pytest.mark.xdist_group("mounts"), pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("kind", "why_not"),
    [
        ("juicefs", why_not_juicefs),
        pytest.param("glusterfs", why_not_gluster, marks=pytest.mark.long),
        pytest.param("moosefs", why_not_moosefs, marks=pytest.mark.long),
    ],
)
def test_all_holds(
    kind: str, why_not: Callable[[], str | None], request: pytest.FixtureRequest
) -> None:
    if reason := why_not():
        pytest.skip(f"no {kind}: {reason}")
    long = ["--long"] if request.config.getoption("--long") else []
    started = time.monotonic()
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", f"--shared={kind}", "-p", "no:cacheprovider", "-rA"),
            *("--durations=8", *long, *(f"{TESTS}/shared/test_{part}.py" for part in ALL)),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    print(f"{ended.stdout}\n{time.monotonic() - started:.0f} s")
    assert ended.returncode == 0, "the tests inside have failed: their output is above"
