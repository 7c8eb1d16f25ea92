"""Where the weights are while they are not needed: on the card if they fit, otherwise in the host's memory."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from i2ii_spool.errors import SettingsError
from i2ii_spool.settings import Memory

log = logging.getLogger(__name__)

GIB = 2**30
# Estimated, not measured: one published server peaks 5 GB above its weights at 1024x1024.
FIXED = 1.5 * GIB
AT_1024 = 3.5 * GIB

WORDS = {
    "full": "all weights stay on the card",
    "model-offload": "one model at a time is on the card, some seconds slower for each picture",
    "group-offload": "one block of the transformer at a time is on the card, several times slower",
    "fp8": "the transformer is kept in 8 bits (lossy), one model at a time is on the card",
}


def weights(folder: Path) -> dict[str, int]:
    """The bytes of weights of each part of the pipeline in `folder`."""
    return {
        part.name: sum(file.stat().st_size for file in part.glob("*.safetensors"))
        for part in folder.iterdir()
        if part.is_dir() and any(part.glob("*.safetensors"))
    }


def needs(sizes: Mapping[str, int], max_side: int) -> dict[Memory, float]:
    """What each mode takes on the card, in bytes; the exact ones first, the fastest of them first."""
    work = FIXED + AT_1024 * (max_side / 1024) ** 2
    others = max((size for part, size in sizes.items() if part != "transformer"), default=0)
    transformer = sizes.get("transformer", 0)
    return {
        "full": sum(sizes.values()) + work,
        "model-offload": max(transformer, others) + work,
        "group-offload": others + work,
        "fp8": max(transformer / 2, others) + work,
    }


def choose(mode: Memory, sizes: Mapping[str, int], max_side: int, free: float) -> Memory:
    """Return `mode`, or for `auto` the first exact one that fits into `free` bytes, and log why.

    Raises `SettingsError` where even the smallest does not fit, or where the one that is set cannot.
    """
    needed = needs(sizes, max_side)
    chosen = mode
    if mode == "auto":
        exact: list[Memory] = ["full", "model-offload", "group-offload"]
        chosen = next((each for each in exact if needed[each] <= free), "group-offload")
    # The estimate of what the work takes may be too high: weights that fit are given a try where they were asked for.
    least = needed[chosen] if mode == "auto" else needed[chosen] - needs({}, max_side)["full"]
    if least > free:
        raise SettingsError(
            f"memory {chosen} needs {needed[chosen] / GIB:.1f} GiB on the card for this model with max_side {max_side}, "
            f"and {free / GIB:.1f} GiB are free: stop what else runs on it, lower max_side, or choose memory anew",
            field="memory",
        )
    log.info(
        "memory: %s (%s): needs about %.1f GiB of the %.1f GiB that are free",
        *(chosen, WORDS[chosen], needed[chosen] / GIB, free / GIB),
    )
    return chosen


def place(pipeline: Any, mode: Memory, device: torch.device) -> None:
    """Bring the pipeline to `device` in this mode, which is not `auto`."""
    if mode == "full":
        pipeline.to(device)
        return
    if mode == "group-offload":
        streams = device.type == "cuda"
        pipeline.vae.to(device)
        pipeline.enable_group_offload(
            device, num_blocks_per_group=1, use_stream=streams, record_stream=streams, exclude_modules=["vae"]
        )
        return
    if mode == "fp8":
        pipeline.transformer.enable_layerwise_casting(
            torch.float8_e4m3fn,
            compute_dtype=pipeline.transformer.dtype,
            skip_modules_pattern=("pos_embed", "norm", "lora"),
        )
    pipeline.enable_model_cpu_offload(device=device)
