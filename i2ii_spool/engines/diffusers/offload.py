"""CPU offloading: weights that are not in use stay on the card if they fit, else in host memory."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from i2ii_spool.errors import SettingsError
from i2ii_spool.settings import OffloadMode

log = logging.getLogger(__name__)

GIB = 2**30
# Memory beside the weights, estimated: one published server peaks 5 GB above its weights at
# 1024x1024.
WORK_FIXED = 1.5 * GIB
WORK_AT_1024 = 3.5 * GIB

EXACT_MODES: tuple[OffloadMode, ...] = ("full", "model-offload", "group-offload")
"""The modes that do not change the result, the fastest first."""
DESCRIPTIONS: dict[OffloadMode, str] = {
    "full": "all weights on the card",
    "model-offload": "one model at a time on the card, up to 30 s slower for each picture",
    "group-offload": "one block of the transformer at a time on the card, several times slower",
}


def weight_sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of weights of each part of the pipeline in `folder`."""
    return {
        part.name: sum(file.stat().st_size for file in part.glob("*.safetensors"))
        for part in folder.iterdir()
        if part.is_dir() and any(part.glob("*.safetensors"))
    }


def memory_needed(sizes: Mapping[str, int], max_side: int) -> dict[OffloadMode, float]:
    """Return the bytes that an edit of one picture takes on the card in each mode."""
    work = WORK_FIXED + WORK_AT_1024 * (max_side / 1024) ** 2
    others = max((size for part, size in sizes.items() if part != "transformer"), default=0)
    transformer = sizes.get("transformer", 0)
    return {
        "full": sum(sizes.values()) + work,
        "model-offload": max(transformer, others) + work,
        "group-offload": others + work,
        "fp8": max(transformer / 2, others) + work,
    }


def choose_mode(sizes: Mapping[str, int], max_side: int, free: float) -> OffloadMode:
    """Return the fastest exact mode that fits in `free` bytes, and log why.

    Raises `SettingsError` if none fits.
    """
    needed = memory_needed(sizes, max_side)
    for mode in EXACT_MODES:
        if needed[mode] <= free:
            log.info(
                "offload: %s (%s) needs about %.1f of %.1f GiB free",
                *(mode, DESCRIPTIONS[mode], needed[mode] / GIB, free / GIB),
            )
            return mode
    least = EXACT_MODES[-1]
    raise SettingsError(
        f"this model needs about {needed[least] / GIB:.1f} GiB on the card even with {least}, but "
        f"only {free / GIB:.1f} GiB are free: stop other processes on the card, lower max_side, or "
        "use a larger card",
        field="offload",
    )


def place(pipeline: Any, mode: OffloadMode, device: torch.device) -> None:
    """Move the pipeline to `device` in this mode. Raises `SettingsError` if it does not fit."""
    on_gpu = device.type == "cuda"
    try:
        if mode == "full":
            pipeline.to(device)
        elif mode == "group-offload":
            pipeline.vae.to(device)
            pipeline.enable_group_offload(
                device,
                num_blocks_per_group=1,
                use_stream=on_gpu,
                record_stream=on_gpu,
                exclude_modules=["vae"],
            )
        else:
            if mode == "fp8":
                pipeline.transformer.enable_layerwise_casting(
                    torch.float8_e4m3fn,
                    compute_dtype=pipeline.transformer.dtype,
                    skip_modules_pattern=("pos_embed", "norm", "lora"),
                )
            pipeline.enable_model_cpu_offload(device=device)
    except torch.OutOfMemoryError as error:
        raise SettingsError(
            f"the weights do not fit on the card with {mode} ({error}): choose auto, or stop other "
            "processes on this GPU",
            field="offload",
        ) from error
