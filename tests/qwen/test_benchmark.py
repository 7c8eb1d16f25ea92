"""The GPU benchmark at its smallest: that it runs through the real worker, not what it prints."""

import json
import subprocess
import sys

import pytest

from tests.qwen import REASON

pytest.importorskip("diffusers", reason=REASON)
pytest.importorskip("torch", reason=REASON)


def test_the_gpu_benchmark_measures_diffusers_and_the_worker_in_one_run() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--json", "--set", "frame_vae=false"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert [(row["what"], row["side"]) for row in report["rows"]] == [
        ("diffusers", 128),
        ("diffusers", 96),
        ("i2ii", 128),
        ("i2ii, 4-step LoRA", 128),
        ("i2ii", 96),
        ("i2ii, 4-step LoRA", 96),
    ]
    assert all(row["seconds"] > row["step_seconds"] > 0 for row in report["rows"])
    assert report["gap_ms"] > 0
