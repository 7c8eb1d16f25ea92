"""Fetching weights with the hubs' own clients, from a hub on this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.qwen import REASON, write_lora
from tests.engines.qwen.hub import Hub
from tests.support.service import wait_until

pytest.importorskip("diffusers", reason=REASON)
pytest.importorskip("torch", reason=REASON)


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.parametrize("source", ["modelscope", "huggingface"]),
]

MODEL = "Qwen/Tiny"
LIGHTNING = "lightx2v/Qwen-Image-Edit-2511-Lightning"
LORA = "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors"


@pytest.fixture
def hub(models: dict[str, Path], tmp_path: Path) -> Iterator[Hub]:
    """A hub with a tiny model and a LoRA for it."""
    (tmp_path / "lightning").mkdir()
    write_lora(tmp_path / "lightning" / LORA)
    with Hub({MODEL: models["2511"], LIGHTNING: tmp_path / "lightning"}) as hub:
        yield hub


def fetching(hub: Hub, cache: Path, source: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "i2ii_spool", "model", "fetch", MODEL],
        env={**os.environ, **hub.environment(cache), "I2II_MODEL_SOURCE": source},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fetch(hub: Hub, cache: Path, source: str) -> subprocess.CompletedProcess[str]:
    process = fetching(hub, cache, source)
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_what_was_fetched_edits_and_has_the_preset_fast(
    hub: Hub, tmp_path: Path, source: str
) -> None:
    fetched = fetch(hub, tmp_path, source)
    assert fetched.returncode == 0, fetched.stderr
    folder, lora = fetched.stdout.strip().splitlines()
    assert (Path(folder) / "model_index.json").is_file()
    assert Path(lora).name == LORA
    assert "100%" in fetched.stderr, "progress is shown"

    # As a worker does it, which fetches nothing itself.
    ran = subprocess.run(
        [sys.executable, "-c", EDIT, source],
        env={
            **os.environ,
            **hub.environment(tmp_path),
            "HF_ENDPOINT": "",
            "MODELSCOPE_ENDPOINT": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "'preset': 'fast', 'num_inference_steps': 4, 'true_cfg_scale': 1.0" in ran.stdout


EDIT = """
import sys
from i2ii_spool.engines.diffusers.engine import QwenEngine
from i2ii_spool.jobs.request import EditRequest
from tests.engines.qwen import ignore, photo, settings

engine = QwenEngine(settings("Qwen/Tiny", model_source=sys.argv[1]))
engine.load()
engine.edit([photo()], EditRequest(prompt="anything", preset="fast"), ignore)
print(engine.info.details)
"""


def test_a_fetch_that_was_killed_goes_on_with_what_is_missing(
    hub: Hub, tmp_path: Path, source: str
) -> None:
    hub.stalls = True
    killed = fetching(hub, tmp_path, source)
    assert hub.has_stalled.wait(60)
    wait_until(lambda: len(hub.asked) > 8)
    killed.kill()
    killed.communicate()

    hub.go_on()
    before, hub.asked = hub.asked, set()
    assert fetch(hub, tmp_path, source).returncode == 0
    assert before - hub.asked, "what had come is not fetched again"


def test_fetch_without_a_lora_gets_the_model_and_says_so(
    hub: Hub, tmp_path: Path, source: str
) -> None:
    (tmp_path / "lightning" / LORA).unlink()
    fetched = fetch(hub, tmp_path, source)
    assert fetched.returncode == 0
    assert len(fetched.stdout.strip().splitlines()) == 1
    assert "without the preset fast" in fetched.stderr
