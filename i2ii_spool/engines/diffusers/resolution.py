"""How large the model works: what a request asks for, what the model computes, and what its
references are scaled to.

The pipelines scale every reference to an area of 1024x1024, whatever was sent, and make as large a
picture unless they are told otherwise. A limit on the input alone saves nothing: the references
must follow, and the output as well.
"""

import functools
import math
import sys
from typing import Any

from i2ii_spool.jobs.request import EditRequest

Size = tuple[int, int]
"""Width and height in pixels."""

# The published pipelines round their own sides so.
AUTO_MULTIPLE = 32
# What the pipelines scale references to, and what the Plus pipeline shows its language model.
NATIVE_AREA = 1024 * 1024
SHOWN_SIDE = 384


def target(first: Size, request: EditRequest, max_side: int) -> Size:
    """The size of the result; for `auto`, an area of `max_side` squared in the first picture's
    aspect."""
    if request.size == "input":
        return first
    return request.sides() or _fit(first, max_side, AUTO_MULTIPLE)


def working(target: Size, max_side: int, multiple: int) -> Size:
    """The size that is computed: the target's in whole multiples, and at most `max_side` squared in
    area."""
    width, height = target
    if width * height > max_side**2:
        return _fit(target, max_side, multiple)
    return _to_multiple(width, multiple), _to_multiple(height, multiple)


def _fit(size: Size, side: int, multiple: int) -> Size:
    ratio = size[0] / size[1]
    width = math.sqrt(side**2 * ratio)
    return _to_multiple(width, multiple), _to_multiple(width / ratio, multiple)


def _to_multiple(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)


def limit_references(pipeline: Any, max_side: int) -> None:
    """Have an Edit or Plus pipeline scale its references to an area of `max_side` squared.

    It has no option for this: the areas are a constant of the Plus pipeline's module, and a number
    within the Edit pipeline's code, which reaches `calculate_dimensions`.
    """
    module: Any = sys.modules[type(pipeline).__module__]
    area = max_side**2
    if hasattr(module, "VAE_IMAGE_SIZE"):
        module.VAE_IMAGE_SIZE = area
        module.CONDITION_IMAGE_SIZE = min(SHOWN_SIDE**2, area)
        return
    original = getattr(module.calculate_dimensions, "__wrapped__", module.calculate_dimensions)

    @functools.wraps(original)
    def calculate_dimensions(target_area: int, ratio: float) -> Any:
        return original(area if target_area == NATIVE_AREA else target_area, ratio)

    module.calculate_dimensions = calculate_dimensions
