"""What the tests of the qwen engine share."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops

from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.settings import Settings

if TYPE_CHECKING:
    from i2ii_spool.engines.diffusers.engine import QwenEngine
    from i2ii_spool.engines.diffusers.presets import Version

SIDE = 128
PROMPT = "turn this into a watercolour"
KINDS: "tuple[Version, ...]" = ("1", "2509", "2511", "2.1")
REASON = "the extra `qwen` is not installed: pip install -e '.[qwen,test]'"


def settings(model: Path | str, **others: Any) -> Settings:
    return Settings(**{"model": str(model), "max_side": SIDE} | others)


def photo(width: int = 96, height: int = 64, *, at: float = -2.0) -> Image.Image:
    return Image.effect_mandelbrot((width, height), (at, -1, 1, 1), 40).convert("RGB")


def ask(**fields: Any) -> EditRequest:
    asked = {"prompt": PROMPT, "num_inference_steps": 10, "true_cfg_scale": 4.0, "seed": 1}
    return EditRequest(**asked | fields)


def edit(engine: "QwenEngine", *images: Image.Image, **fields: Any) -> list[Image.Image]:
    return engine.edit(images or [photo()], ask(**fields), ignore)


def ignore(_step: int, _steps: int) -> None:
    """An `on_step` that does nothing."""


def are_equal(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and not ImageChops.difference(one, other).getbbox()


def write_lora(
    file: Path,
    *,
    features: int = 64,
    outputs: int | None = None,
    layer: str = "transformer_blocks.0.attn.to_q",
) -> None:
    """Write a LoRA for a layer of so many `features`, and as many outputs by default."""
    import torch
    from safetensors.torch import save_file

    matrices = {
        "lora_A": torch.full((4, features), 0.05),
        "lora_B": torch.full((outputs or features, 4), 0.05),
    }
    save_file(
        {f"transformer.{layer}.{name}.weight": matrix for name, matrix in matrices.items()}, file
    )
