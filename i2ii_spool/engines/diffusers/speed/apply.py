"""Apply the settings for speed and memory to a loaded pipeline, in the order that they require."""

from dataclasses import dataclass
from typing import Any

import torch

from i2ii_spool.engines.diffusers import offload, pipelines
from i2ii_spool.engines.diffusers.speed import compiled, exact, lossy
from i2ii_spool.errors import SettingsError
from i2ii_spool.settings import OffloadMode, Settings


@dataclass(frozen=True)
class Caches:
    """What the pictures of an edit share."""

    prompts: exact.PromptCache
    references: exact.ReferenceCache
    modulations: exact.ModulationCache | None

    def begin_edit(self) -> None:
        """Drop what belongs to the last edit."""
        self.prompts.begin_edit()
        self.references.begin_edit()

    def change_weights(self) -> None:
        """Drop what depends on the transformer's weights, because they have changed."""
        if self.modulations is not None:
            self.modulations.clear()


def apply(pipeline: Any, settings: Settings, mode: OffloadMode, device: torch.device) -> Caches:
    """Apply the settings to a pipeline with its LoRAs loaded, and move it to `device`.

    Raises `SettingsError` for settings that this
    pipeline or device cannot have.
    """
    two_streams = pipelines.spec_of(pipeline).has_two_streams
    if settings.step_cache != "off" and not two_streams:
        raise SettingsError(
            "this model already reuses what its steps share: leave step_cache off",
            field="step_cache",
        )
    exact.drop_lm_head(pipeline)
    prompts = exact.PromptCache(pipeline, settings.prompt_cache)
    references = exact.ReferenceCache(pipeline)
    if settings.frame_vae:
        exact.use_frame_convolutions(pipeline.vae)
    if settings.fp8:
        lossy.quantise_linear_layers(pipeline.transformer, device)
    # With group-offload a block's modulation layers are on the card only while the block runs.
    caches_modulations = settings.modulation_cache and mode != "group-offload" and two_streams
    modulations = exact.ModulationCache(pipeline) if caches_modulations else None
    offload.place(pipeline, mode, device)
    # A model without two streams has attention masks, which most kernels refuse.
    if settings.attention != "auto" or two_streams:
        exact.set_attention(pipeline.transformer, settings.attention, device)
    lossy.enable_step_cache(pipeline, settings.step_cache)
    if settings.compile:
        compiled.compile_blocks(pipeline.transformer, fullgraph=settings.step_cache == "off")
    return Caches(prompts, references, modulations)


def lossy_settings(settings: Settings, mode: OffloadMode) -> list[str]:
    """Return the names of the settings that change results, for `result.json`."""
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
