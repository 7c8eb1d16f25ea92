"""The pipelines of diffusers that this engine runs, and what differs between them."""

from typing import Any

from i2ii_spool.engines.diffusers.pipelines.base import PipelineSpec
from i2ii_spool.engines.diffusers.pipelines.qwen_edit import EDIT, EDIT_PLUS
from i2ii_spool.engines.diffusers.pipelines.qwen_image_21 import QWEN_IMAGE_21

PIPELINES = {spec.class_name: spec for spec in (EDIT, EDIT_PLUS, QWEN_IMAGE_21)}
"""By the name of the class, as `model_index.json` has it."""


def spec_of(pipeline: Any) -> PipelineSpec:
    """Return the spec of a loaded pipeline."""
    return PIPELINES[type(pipeline).__name__]
