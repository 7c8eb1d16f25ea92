"""What differs between pipelines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from i2ii_spool.engines.diffusers.presets import Preset


@dataclass(frozen=True)
class PipelineSpec:
    """One pipeline of diffusers."""

    class_name: str
    max_images: int
    """The most references that the model is published for."""
    multiple: int
    """The sides of a result are multiples of this, in pixels: the transformer takes patches of two
    by two latents, and a latent covers 8 or 16 pixels."""
    quality: Preset
    """Steps and guidance as published: what a request without a preset leaves open."""
    balanced: Preset
    processor_class: Callable[[], Any]
    """Returns the class of its language model's processor, without the video processor."""
    positions: int
    """Rows of the transformer's table of positions."""
    condition_side: int | None = None
    """The language model sees references of at most this side squared, in pixels; None if it sees
    what the VAE sees."""
    reads_alpha: bool = False
    limit_references: Callable[[Any, int], None] | None = None
    """`limit_references(pipeline, max_side)` limits the area of its references; None if
    the pipeline has an option for this, `output_resolution`."""
    has_two_streams: bool = True
    """True if each block has separate layers, AdaLN included, for pictures and text, and no mask
    between the two."""
