"""Requests made from the description of the API, good and bad, at a live service: it answers as
described, and refuses what the description does not allow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import TESTS
from tests.support.service import Service

TOKEN = "a-token-of-an-operator"
EXAMPLES = "150" if os.environ.get("CI") else "20"


@pytest.mark.timeout(180)
def test_every_answer_is_one_that_is_described(service: Service, tmp_path: Path) -> None:
    run_schemathesis(service, tmp_path, EXAMPLES, "--seed", "1")


@pytest.mark.long
def test_many_requests(service: Service, tmp_path: Path) -> None:
    run_schemathesis(service, tmp_path, "3000")


def run_schemathesis(service: Service, folder: Path, examples: str, *more: str) -> None:
    service.serve(api_token=TOKEN, max_queue="1000000")
    service.work()
    command = [
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(TESTS / "support/schemathesis.toml")),
        *("run", f"{service.url}/openapi.json"),
        *("--max-examples", examples, "--generation-database", "none"),
        *("--header", f"Authorization: Bearer {TOKEN}"),
        *("--continue-on-failure", "--no-color", *more),
    ]
    paths = {"PYTHONPATH": str(TESTS.parent), "SCHEMATHESIS_HOOKS": "tests.support.api_values"}
    ended = subprocess.run(
        command, cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Stateful" in ended.stdout
    assert "Traceback" not in service.read_log()
