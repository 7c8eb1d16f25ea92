"""Qwen-Image-2.1, which reads and makes transparency."""

from typing import Any

from i2ii_spool.engines.diffusers.pipelines.base import PipelineSpec
from i2ii_spool.engines.diffusers.presets import Preset


def processor_class() -> Any:
    """Return the class of the processor, without the video processor."""
    # Some versions of transformers that can run Qwen-Image-Edit lack this class.
    from transformers import Qwen3VLProcessor

    from i2ii_spool.engines.diffusers.pipelines.processor import without_video

    return without_video(Qwen3VLProcessor)


QWEN_IMAGE_21 = PipelineSpec(
    "QwenImage21Pipeline",
    max_images=10,
    multiple=32,
    quality=Preset(num_inference_steps=40, true_cfg_scale=1.0),
    balanced=Preset(num_inference_steps=28, true_cfg_scale=1.0),
    processor_class=processor_class,
    positions=8192,
    reads_alpha=True,
    has_two_streams=False,
)
