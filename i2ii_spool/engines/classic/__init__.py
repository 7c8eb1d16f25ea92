"""The classic engine: a fixed list of instructions in English and Chinese, made with Pillow alone.

language       finds the instructions in a prompt, their order and their strength
instructions   the table of all instructions
painting, brush, drawing, printing, darkroom, moods, geometry
               the effects, each a tuple of stages
materials      what the effects share
"""

import math
from collections.abc import Callable, Sequence
from itertools import count
from random import Random

import PIL
from PIL import Image, ImageOps

from i2ii_spool import __version__
from i2ii_spool.engines.base import EngineInfo, OnStep, seed_of
from i2ii_spool.engines.classic.geometry import MAX_GROWTH, MOVES
from i2ii_spool.engines.classic.instructions import INSTRUCTIONS
from i2ii_spool.engines.classic.language import RequestedEffect, understand
from i2ii_spool.engines.classic.materials import Size, Stage, Touch
from i2ii_spool.errors import InvalidRequest, UnknownInstruction
from i2ii_spool.jobs.offers import Offers
from i2ii_spool.jobs.request import EditRequest

MAX_AUTO_SIDE = 2048
"""The longest side of a result with `size=auto`, in pixels: each effect takes seconds at this size,
and the result fills a large screen."""

# A prompt could hold hundreds, which would take a worker minutes.
MAX_INSTRUCTIONS = 12


class ClassicEngine:
    """Applies the instructions of a prompt in their order.

    `negative_prompt`, `num_inference_steps` and `true_cfg_scale` are for diffusion models: they are
    accepted and have no effect. The same picture, request and seed give the same bytes. The seed
    decides what is random in an effect: paper, grain, brushes, flakes. Effects of pure colour or
    geometry have nothing random.
    """

    info = EngineInfo(
        engine="classic",
        model="classic",
        revision=__version__,
        versions={"pillow": PIL.__version__},
        max_images=1,
        offers=Offers(instructions=tuple(each.named for each in INSTRUCTIONS)),
    )
    compiling = False

    def load(self) -> None:
        """Do nothing: there is nothing to load."""

    def edit(
        self, images: Sequence[Image.Image], request: EditRequest, on_step: OnStep
    ) -> list[Image.Image]:
        """See `Engine.edit`. Steps are the stages of all effects, over all pictures."""
        self.info.check_count(len(images))
        requested = _parse(request)
        picture = images[0]
        sides = picture.size if request.size == "input" else request.sides()
        start = _resized(picture, sides)
        steps = request.n * sum(len(each.instruction.effect) for each in requested)
        step = count(1)

        def on_stage() -> None:
            on_step(next(step), steps)

        edited = (
            _edited(start, requested, Random(seed_of(request, i)), on_stage)
            for i in range(request.n)
        )
        return [_resized(image, sides) for image in edited]  # again: a rotation changes the sides

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _parse(request: EditRequest) -> list[RequestedEffect]:
    """Return what the prompt asks for. Raises `InvalidRequest`, with the list of instructions if
    the prompt has none."""
    if request.preset:
        raise InvalidRequest(
            f"the classic engine has no presets, got {request.preset!r}; leave it out",
            field="preset",
        )
    requested = understand(request.prompt)
    if not requested:
        known = ", ".join(instruction.name for instruction in INSTRUCTIONS)
        raise UnknownInstruction(
            "prompt contains no instruction of the classic engine, which has no model but a fixed "
            f"list: {known}. The qwen engine accepts any instruction.",
            field="prompt",
        )
    if len(requested) > MAX_INSTRUCTIONS:
        raise InvalidRequest(
            f"prompt contains {len(requested)} instructions; the classic engine follows at most "
            f"{MAX_INSTRUCTIONS}",
            field="prompt",
        )
    return requested


def _resized(image: Image.Image, sides: Size | None) -> Image.Image:
    """Return `image` with these sides, cropped about its centre; without sides, within
    `MAX_AUTO_SIDE`."""
    return (
        _within(image, MAX_AUTO_SIDE, MAX_AUTO_SIDE**2)
        if sides is None
        else ImageOps.fit(image, sides)
    )


def _within(image: Image.Image, side: int, pixels: int) -> Image.Image:
    """Return `image`, made smaller if one of its sides is longer than `side`, or if it has more
    pixels than `pixels`."""
    excess = image.width * image.height / pixels
    side = min(side, int(max(image.size) / math.sqrt(max(1, excess))))
    return image if max(image.size) <= side else ImageOps.contain(image, (side, side))


def _edited(
    image: Image.Image,
    requested: list[RequestedEffect],
    chance: Random,
    on_stage: Callable[[], None],
) -> Image.Image:
    """Return `image` after every effect, in their order; `on_stage` is called after each stage."""
    side = max(MAX_AUTO_SIDE, *image.size)
    pixels = MAX_GROWTH * max(MAX_AUTO_SIDE**2, image.width * image.height)
    for each in requested:
        touch = Touch(image.convert("RGB"), each.strength, chance)
        for stage in each.instruction.effect:
            image = _through(stage, image, touch)
            on_stage()
        image = _within(image, side, pixels)  # each rotation by 45 degrees doubles the pixels
    return image


def _through(stage: Stage, image: Image.Image, touch: Touch) -> Image.Image:
    """Return `image` after `stage`. If the stage moves pixels, it moves the alpha channel, too."""
    if image.mode != "RGBA":
        return stage(image, touch)
    alpha = image.getchannel("A")
    result = stage(image.convert("RGB"), touch)
    result.putalpha(stage(alpha, touch) if stage in MOVES else alpha)
    return result
