"""Qwen-Image-Edit, and its successors -2509 and -2511 (Plus), which take several pictures."""

import functools
import sys
from typing import Any

from i2ii_spool.engines.diffusers.pipelines.base import PipelineSpec
from i2ii_spool.engines.diffusers.presets import Preset

# The area to which the pipelines scale references, and the side of those that the Plus pipeline
# shows to its language model.
NATIVE_AREA = 1024 * 1024
CONDITION_SIDE = 384


def limit_references(pipeline: Any, max_side: int) -> None:
    """Make a pipeline scale its references to an area of `max_side` squared, in pixels.

    diffusers has no option for this. In the Plus pipeline the areas are constants of the module; in
    the Edit pipeline the area is a literal, which it passes to `calculate_dimensions`.
    """
    module: Any = sys.modules[type(pipeline).__module__]
    area = max_side**2
    if hasattr(module, "VAE_IMAGE_SIZE"):
        module.VAE_IMAGE_SIZE = area
        module.CONDITION_IMAGE_SIZE = min(CONDITION_SIDE**2, area)
        return
    original = getattr(module.calculate_dimensions, "__wrapped__", module.calculate_dimensions)

    @functools.wraps(original)
    def calculate_dimensions(target_area: int, ratio: float) -> Any:
        return original(area if target_area == NATIVE_AREA else target_area, ratio)

    module.calculate_dimensions = calculate_dimensions


def processor_class() -> Any:
    """Return the class of the processor, without the video processor."""
    from transformers import Qwen2VLProcessor

    from i2ii_spool.engines.diffusers.pipelines.processor import without_video

    return without_video(Qwen2VLProcessor)


def _spec(class_name: str, max_images: int, condition_side: int | None = None) -> PipelineSpec:
    return PipelineSpec(
        class_name,
        max_images,
        multiple=16,
        quality=Preset(num_inference_steps=50, true_cfg_scale=4.0),
        balanced=Preset(num_inference_steps=28, true_cfg_scale=4.0),
        processor_class=processor_class,
        positions=4096,
        condition_side=condition_side,
        limit_references=limit_references,
    )


EDIT = _spec("QwenImageEditPipeline", max_images=1)
EDIT_PLUS = _spec("QwenImageEditPlusPipeline", max_images=3, condition_side=CONDITION_SIDE)
