"""Compiled blocks: any number of sizes, prompts and LoRAs, and few compilations."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageChops

from tests.engines.qwen import REASON, edit, photo, settings, write_lora

pytest.importorskip("diffusers", reason=REASON)
pytest.importorskip("torch", reason=REASON)

import torch
from torch._dynamo.utils import counters

from i2ii_spool.engines.diffusers.engine import QwenEngine
from i2ii_spool.engines.diffusers.speed import compiled

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
    ),
    pytest.mark.skipif(
        shutil.which("g++") is None,
        reason="torch.compile needs a C++ compiler on the CPU: apt install g++",
    ),
]
LORA = """
[{name}]
num_inference_steps = 2
true_cfg_scale = 1.0
lora = "lora.safetensors"
lora_version = "2511"
"""
SIZES = ["128x128", "64x64", "32x128", "208x48", "48x208", "160x96", "96x96", "112x64", "64x112"]


@pytest.fixture
def load(models: dict[str, Path], tmp_path: Path) -> Callable[[str], QwenEngine]:
    """Load an engine with compiled blocks and two LoRAs."""
    torch._dynamo.reset()
    counters.clear()
    write_lora(tmp_path / "lora.safetensors")
    presets = tmp_path / "presets.toml"
    presets.write_text("".join(LORA.format(name=name) for name in ("one", "two")))

    def load_one(kind: str) -> QwenEngine:
        lora = {"presets": presets} if kind == "2511" else {}
        engine = QwenEngine(settings(models[kind], compile=True, **lora))
        engine.load()
        return engine

    return load_one


def compilations() -> int:
    return int(counters["stats"]["unique_graphs"])


def test_sizes_and_prompts_share_what_is_compiled_and_each_lora_adds_its_own(
    load: Callable[[str], QwenEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling: list[bool] = []
    engine = load("2511")
    from torch._inductor import compile_fx  # it warns where no test can ignore it

    def compile_graph(*inputs: Any, original: Any = compile_fx.compile_fx, **options: Any) -> Any:
        compiling.append(engine.compiling)
        return original(*inputs, **options)

    monkeypatch.setattr(compile_fx, "compile_fx", compile_graph)
    at_start = compilations()
    for size in SIZES:
        edit(engine, size=size, num_inference_steps=10)
    edit(engine, photo(64, 96), photo(96, 32), prompt="of another length " * 20)
    assert compilations() == at_start
    for size in SIZES[:3]:
        for preset in ("one", "", "two", ""):
            edit(engine, size=size, preset=preset)
    assert at_start < compilations() <= at_start + 2
    assert compiling == [True] * (compilations() - at_start), "the worker must know it"
    assert not engine.compiling


def test_what_is_beyond_the_limit_runs_uncompiled(
    load: Callable[[str], QwenEngine],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(compiled, "MAX_COMPILATIONS", 3)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)  # restored at the end
    engine = load("2511")
    caplog.set_level(logging.WARNING)
    [one] = edit(engine, preset="one")
    assert "uncompiled" not in caplog.text
    [two] = edit(engine, preset="two")
    assert "it runs uncompiled" in caplog.text
    difference = ImageChops.difference(one, two).getextrema()
    assert max(most for _, most in difference) <= 1, "both presets have the same LoRA"
    edit(engine)
