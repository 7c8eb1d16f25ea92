"""The size of a result, and the size at which the model computes it.

The pipelines scale every reference to an area of 1024x1024 and, unless told otherwise, make a
result of that area. Limiting the input alone therefore saves nothing: `max_side` limits the
references (`PipelineSpec.limit_references`) and the result.
"""

import math

from i2ii_spool.jobs.request import EditRequest

Size = tuple[int, int]
"""Width and height in pixels."""

AUTO_MULTIPLE = 32
"""The published pipelines round the sides of their results to this."""


def result_size(first: Size, request: EditRequest, max_side: int) -> Size:
    """Return the size of the result.

    With `size=auto` it has an area of `max_side` squared and the aspect ratio of the first picture.
    """
    if request.size == "input":
        return first
    return request.sides() or fit(first, max_side)


def compute_size(result: Size, max_side: int, multiple: int) -> Size:
    """Return the size to compute: the result's in multiples of `multiple`.

    Its area is at most `max_side` squared.
    """
    width, height = result
    if width * height > max_side**2:
        return fit(result, max_side, multiple)
    return _to_multiple(width, multiple), _to_multiple(height, multiple)


def fit(size: Size, side: int, multiple: int = AUTO_MULTIPLE) -> Size:
    """Return the sides of an area of `side` squared with the aspect ratio of `size`.

    The pipelines scale their references like this.
    """
    ratio = size[0] / size[1]
    width = math.sqrt(side**2 * ratio)
    return _to_multiple(width, multiple), _to_multiple(width / ratio, multiple)


def _to_multiple(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)
