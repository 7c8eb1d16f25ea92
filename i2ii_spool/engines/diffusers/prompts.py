"""The tokens of a prompt.

The transformer has a table of positions, for the prompt and the pictures together. A prompt that is
longer than the table would fail in the middle of an edit, or would read positions of pictures.
"""

from collections.abc import Sequence
from typing import Any

from i2ii_spool.engines.diffusers import pipelines
from i2ii_spool.engines.diffusers.resolution import Size, fit
from i2ii_spool.errors import InvalidRequest

TOKEN_SIDE = 16
"""A token of a picture covers so many pixels squared."""
TEMPLATE_TOKENS = 16
"""At most so many tokens of the template are around the prompt, and around each picture."""


def check(
    pipeline: Any, texts: dict[str, str], pictures: Sequence[Size], computed: Size, max_side: int
) -> int:
    """Return the tokens of the longest of the `texts`, which are prompts by their fields.

    Raises `InvalidRequest` for one that does not fit beside `pictures` of these sizes.
    """
    free = free_positions(pipeline, pictures, computed, max_side)
    counts = {field: len(pipeline.processor.tokenise(text)) for field, text in texts.items()}
    for field, count in counts.items():
        if count > free:
            raise InvalidRequest(
                f"{field} has {count} tokens; beside {len(pictures)} picture(s) this model takes "
                f"at most {free}: shorten it",
                field=field,
            )
    return max(counts.values())


def free_positions(pipeline: Any, pictures: Sequence[Size], computed: Size, max_side: int) -> int:
    """Return how many tokens a prompt may have."""
    spec = pipelines.spec_of(pipeline)
    references = [fit(size, max_side) for size in pictures]
    free = spec.positions - TEMPLATE_TOKENS * (len(pictures) + 1)
    if not spec.has_two_streams:
        # A reference moves the text behind it by its longer side.
        return free - sum(max(size) // TOKEN_SIDE for size in references)
    # The text begins behind half of the longest side, and the language model's view of the
    # references is a part of it.
    free -= max(max(size) for size in (computed, *references)) // (2 * TOKEN_SIDE)
    processor = pipeline.processor.image_processor
    for size in pictures:
        width, height = fit(size, min(spec.condition_side or max_side, max_side))
        patches = processor.get_number_of_image_patches(height, width, {})
        free -= patches // processor.merge_size**2
    return free
