"""What the pipelines that are run here differ in."""

from dataclasses import dataclass
from typing import Any

from i2ii_spool.engines.qwen.presets import Preset


@dataclass(frozen=True)
class Family:
    """One of diffusers' pipelines."""

    pipeline: str
    """Its class."""
    most_pictures: int
    multiple: int
    """Its sides are whole multiples of so many pixels."""
    quality: Preset
    """Steps and guidance as they are published."""
    balanced: Preset
    reads_alpha: bool = False
    takes_resolution: bool = False
    """Whether it is told what to scale its references to; the others have it in their code."""


_GUIDED = {
    "quality": Preset(num_inference_steps=50, true_cfg_scale=4.0),
    "balanced": Preset(num_inference_steps=28, true_cfg_scale=4.0),
}
# Eight pixels to a latent, two by two latents to a token; twice that for 2.1.
EDIT = Family("QwenImageEditPipeline", most_pictures=1, multiple=16, **_GUIDED)
PLUS = Family("QwenImageEditPlusPipeline", most_pictures=3, multiple=16, **_GUIDED)
QWEN_IMAGE_21 = Family(
    "QwenImage21Pipeline",
    most_pictures=3,
    multiple=32,
    quality=Preset(num_inference_steps=40, true_cfg_scale=1.0),
    balanced=Preset(num_inference_steps=28, true_cfg_scale=1.0),
    reads_alpha=True,
    takes_resolution=True,
)
FAMILIES = {family.pipeline: family for family in (EDIT, PLUS, QWEN_IMAGE_21)}


def of(pipeline: Any) -> Family:
    """The family of a pipeline that has been loaded."""
    return FAMILIES[type(pipeline).__name__]
