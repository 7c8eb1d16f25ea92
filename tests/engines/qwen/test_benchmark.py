"""The engine's benchmarks: that they run, and count what the documentation quotes."""

import json
import re
import subprocess
import sys

import pytest

from tests.engines.qwen import REASON

pytest.importorskip("diffusers", reason=REASON)
pytest.importorskip("torch", reason=REASON)


def test_gpu_benchmark_measures_diffusers_and_worker_in_one_run() -> None:
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.gpu",
            "--tiny",
            "--json",
            "--steps",
            "12",
            "--set",
            "frame_vae=false",
        ],
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
    assert [row["steps"] for row in report["rows"]] == [
        "12x2",
        "12x2",
        "12x2",
        "4x1",
        "12x2",
        "4x1",
    ]
    assert all(row["seconds"] > row["step_seconds"] > 0 for row in report["rows"])
    assert report["gap_ms"] > 0


def test_each_speed_setting_is_compared_with_diffusers() -> None:
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.gpu_settings",
            "--tiny",
            "--steps",
            "3",
            "--only",
            "off",
            "group-offload",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    differences = dict(re.findall(r"^(\S+) .* differs (\d+)", ran.stdout, re.MULTILINE))
    assert list(differences) == ["diffusers", "off", "group-offload"]
    assert differences["diffusers"] == differences["off"] == "0"
    assert int(differences["group-offload"]) <= 1


def test_flop_are_counted_on_the_published_architecture() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.flops"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    figures = dict(re.findall(r"^(.+?) {2,}([0-9.]+)", ran.stdout, re.MULTILINE))
    assert float(figures["a pass at 1024"]) / float(figures["a pass at 768"]) == pytest.approx(
        2.0, abs=0.1
    )
    assert float(figures["VAE decode, on single frames"]) < 0.5 * float(figures["VAE decode"])
