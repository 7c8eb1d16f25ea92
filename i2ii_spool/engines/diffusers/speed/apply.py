"""What the settings make of a loaded pipeline, in the order in which it goes together."""

from typing import Any

import torch

from i2ii_spool.engines.diffusers import offload, pipelines
from i2ii_spool.engines.diffusers.speed import exact, lossy
from i2ii_spool.errors import SettingsError
from i2ii_spool.settings import OffloadMode, Settings


def apply(
    pipeline: Any, settings: Settings, mode: OffloadMode, device: torch.device
) -> exact.ModulationCache | None:
    """Make the pipeline, which has its LoRAs already, as fast and as small as is set, and bring it
    to its device.

    Returns the modulations that it keeps, if it does. Raises `SettingsError` for what cannot be had
    here.
    """
    two_streams = pipelines.of(pipeline).has_two_streams
    if settings.step_cache != "off" and not two_streams:
        raise SettingsError(
            "this model keeps what steps share by itself: leave it off", field="step_cache"
        )
    exact.drop_head(pipeline)
    if settings.prompt_cache:
        exact.keep_prompts(pipeline, settings.prompt_cache)
    if settings.frame_vae:
        exact.use_frames(pipeline.vae)
    if settings.fp8:
        lossy.multiply_in_fp8(pipeline.transformer, device)
    # A block that waits elsewhere comes with its modulation layers, and only then.
    keeps = settings.modulation_cache and mode != "group-offload" and two_streams
    modulations = exact.ModulationCache(pipeline) if keeps else None
    offload.place(pipeline, mode, device)
    if (
        settings.attention != "auto" or two_streams
    ):  # without, there are masks, which most kernels refuse
        exact.choose_attention(pipeline.transformer, settings.attention, device)
    lossy.cache_steps(pipeline, settings.step_cache)
    if settings.compile:
        pipeline.transformer.compile_repeated_blocks(fullgraph=settings.step_cache == "off")
    return modulations


def lossy_settings(settings: Settings, mode: OffloadMode) -> list[str]:
    """What is set that changes results, for their record."""
    return [
        name
        for name, is_on in (
            (f"step_cache {settings.step_cache}", settings.step_cache != "off"),
            ("fp8", settings.fp8),
            ("offload fp8", mode == "fp8"),
            (f"attention {settings.attention}", "sage" in settings.attention),
        )
        if is_on
    ]
