"""Where the weights are while they are not needed: on the card if they fit, otherwise in the host's
memory."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from i2ii_spool.errors import SettingsError
from i2ii_spool.settings import OffloadMode

log = logging.getLogger(__name__)

GIB = 2**30
# Estimated, not measured: one published server peaks 5 GB above its weights at 1024x1024.
FIXED = 1.5 * GIB
AT_1024 = 3.5 * GIB

EXACT: tuple[OffloadMode, ...] = ("full", "model-offload", "group-offload")
"""The modes that change nothing in the result, the fastest first."""
WORDS: dict[OffloadMode, str] = {
    "full": "all weights stay on the card",
    "model-offload": "one model at a time is on the card, some seconds slower for each picture",
    "group-offload": "one block of the transformer at a time is on the card, several times slower",
}


def weights(folder: Path) -> dict[str, int]:
    """The bytes of weights of each part of the pipeline in `folder`."""
    return {
        part.name: sum(file.stat().st_size for file in part.glob("*.safetensors"))
        for part in folder.iterdir()
        if part.is_dir() and any(part.glob("*.safetensors"))
    }


def needs(sizes: Mapping[str, int], max_side: int) -> dict[OffloadMode, float]:
    """What each mode takes on the card, in bytes, for edits of one picture."""
    work = FIXED + AT_1024 * (max_side / 1024) ** 2
    others = max((size for part, size in sizes.items() if part != "transformer"), default=0)
    transformer = sizes.get("transformer", 0)
    return {
        "full": sum(sizes.values()) + work,
        "model-offload": max(transformer, others) + work,
        "group-offload": others + work,
        "fp8": max(transformer / 2, others) + work,
    }


def choose(sizes: Mapping[str, int], max_side: int, free: float) -> OffloadMode:
    """Return the fastest exact mode that fits into `free` bytes, and log why. Raises
    `SettingsError` if none does."""
    needed = needs(sizes, max_side)
    for mode in EXACT:
        if needed[mode] <= free:
            log.info(
                "memory: %s, %s: needs about %.1f of the %.1f GiB that are free",
                *(mode, WORDS[mode], needed[mode] / GIB, free / GIB),
            )
            return mode
    raise SettingsError(
        f"this model needs about {needed[EXACT[-1]] / GIB:.1f} GiB on the card even with {EXACT[-1]}, and "
        f"{free / GIB:.1f} GiB are free: stop what else runs on it, lower max_side, or use a larger one",
        field="offload",
    )


def place(pipeline: Any, mode: OffloadMode, device: torch.device) -> None:
    """Bring the pipeline to `device` in this mode. Raises `SettingsError` if it does not fit."""
    try:
        _place(pipeline, mode, device)
    except torch.OutOfMemoryError as error:
        raise SettingsError(
            f"the weights do not fit with {mode} ({error}): say auto, or stop what else runs on this GPU",
            field="offload",
        ) from error


def _place(pipeline: Any, mode: OffloadMode, device: torch.device) -> None:
    if mode == "full":
        pipeline.to(device)
        return
    if mode == "group-offload":
        streams = device.type == "cuda"
        pipeline.vae.to(device)
        pipeline.enable_group_offload(
            device,
            num_blocks_per_group=1,
            use_stream=streams,
            record_stream=streams,
            exclude_modules=["vae"],
        )
        return
    if mode == "fp8":
        pipeline.transformer.enable_layerwise_casting(
            torch.float8_e4m3fn,
            compute_dtype=pipeline.transformer.dtype,
            skip_modules_pattern=("pos_embed", "norm", "lora"),
        )
    pipeline.enable_model_cpu_offload(device=device)
