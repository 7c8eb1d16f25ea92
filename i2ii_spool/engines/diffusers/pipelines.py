"""What the pipelines that are run here differ in."""

from dataclasses import dataclass
from typing import Any

from i2ii_spool.engines.diffusers.presets import Preset


@dataclass(frozen=True)
class Family:
    """One of diffusers' pipelines."""

    pipeline: str
    """Its class."""
    most_pictures: int
    multiple: int
    """Its sides are whole multiples of so many pixels: two by two latents, of 8 pixels each or of
    16."""
    quality: Preset
    """Steps and guidance as they are published."""
    balanced: Preset
    reads_alpha: bool = False
    takes_resolution: bool = False
    """Whether it is told what to scale its references to; the others have it in their code."""
    has_two_streams: bool = True
    """Whether pictures and text have layers of their own in each block, AdaLN among them, and no
    mask between them."""


GUIDED_QUALITY = Preset(num_inference_steps=50, true_cfg_scale=4.0)
GUIDED_BALANCED = Preset(num_inference_steps=28, true_cfg_scale=4.0)

EDIT = Family(
    "QwenImageEditPipeline", 1, multiple=16, quality=GUIDED_QUALITY, balanced=GUIDED_BALANCED
)
PLUS = Family(
    "QwenImageEditPlusPipeline", 3, multiple=16, quality=GUIDED_QUALITY, balanced=GUIDED_BALANCED
)
QWEN_IMAGE_21 = Family(
    "QwenImage21Pipeline",
    3,
    multiple=32,
    quality=Preset(num_inference_steps=40, true_cfg_scale=1.0),
    balanced=Preset(num_inference_steps=28, true_cfg_scale=1.0),
    reads_alpha=True,
    takes_resolution=True,
    has_two_streams=False,
)
FAMILIES = {family.pipeline: family for family in (EDIT, PLUS, QWEN_IMAGE_21)}


def of(pipeline: Any) -> Family:
    """The family of a pipeline that has been loaded."""
    return FAMILIES[type(pipeline).__name__]
