"""The classic engine: Pillow alone, no model, and a fixed list of instructions in English and
Chinese.

language       reads the prompt: which instructions, in which order, how strongly
instructions   the table of all that it knows
painting, brush, drawing, printing, darkroom, moods, geometry
               the effects, each a tuple of stages
materials      what the effects share
"""

from collections.abc import Callable, Sequence
from itertools import count
from random import Random

import PIL
from PIL import Image, ImageOps

from i2ii_spool import __version__
from i2ii_spool.engines.base import EngineInfo, OnStep
from i2ii_spool.engines.classic.geometry import MOVES
from i2ii_spool.engines.classic.instructions import INSTRUCTIONS
from i2ii_spool.engines.classic.language import Wish, understand
from i2ii_spool.engines.classic.materials import Size, Stage, Touch
from i2ii_spool.errors import InvalidRequest, UnknownInstruction
from i2ii_spool.jobs.request import EditRequest

# The largest side of an `auto` picture: every effect is done with one in seconds, and it fills a
# large screen.
MAX_AUTO_SIDE = 2048

# A prompt has room for hundreds, which would keep a worker busy for minutes.
MAX_INSTRUCTIONS = 12


class ClassicEngine:
    """Edits pictures as a prompt's instructions say, one after another in the order in which they
    stand.

    `negative_prompt`, `num_inference_steps` and `true_cfg_scale` steer a diffusion model; here they
    are accepted and mean nothing. The same picture, request and seed give the same bytes. The seed
    decides what is random: paper, grain, brushes, flakes; effects of pure colour or geometry have
    nothing random in them.
    """

    info = EngineInfo(
        engine="classic",
        model="classic",
        revision=__version__,
        versions={"pillow": PIL.__version__},
    )

    def load(self) -> None:
        """There is nothing to load."""

    def edit(
        self, images: Sequence[Image.Image], request: EditRequest, on_step: OnStep
    ) -> list[Image.Image]:
        """See `Engine.edit`. Steps are the stages of all effects, over all pictures."""
        wishes = _wishes(request)
        picture = _only(images)
        sides = picture.size if request.size == "input" else request.sides()
        start = _sized(picture, sides)
        steps = request.n * sum(len(wish.instruction.effect) for wish in wishes)
        step = count(1)

        def tell() -> None:
            on_step(next(step), steps)

        edited = (_edited(start, wishes, Random(request.seed + i), tell) for i in range(request.n))
        return [_sized(image, sides) for image in edited]  # again: a rotation has changed its sides

    def close(self) -> None:
        """There is nothing to let go of."""


def _wishes(request: EditRequest) -> list[Wish]:
    """What the prompt asks for, or `InvalidRequest` with the list of what is known."""
    if request.preset:
        raise InvalidRequest(
            f"the classic engine has no presets, got {request.preset!r}; leave it out",
            field="preset",
        )
    wishes = understand(request.prompt)
    if not wishes:
        raise UnknownInstruction(_unknown(), field="prompt")
    if len(wishes) > MAX_INSTRUCTIONS:
        raise InvalidRequest(
            f"prompt holds {len(wishes)} instructions; the classic engine follows at most {MAX_INSTRUCTIONS}",
            field="prompt",
        )
    return wishes


def _unknown() -> str:
    known = ", ".join(instruction.name for instruction in INSTRUCTIONS)
    return (
        f"prompt holds no instruction that the classic engine knows. It has no model, but a fixed list: {known}. "
        "The qwen engine takes any instruction."
    )


def _only(images: Sequence[Image.Image]) -> Image.Image:
    if len(images) != 1:
        raise InvalidRequest(
            f"the classic engine edits one picture, {len(images)} were given", field="image"
        )
    return images[0]


def _sized(image: Image.Image, sides: Size | None) -> Image.Image:
    """Return `image` with these sides, cropped about its centre; without sides, within
    `MAX_AUTO_SIDE`."""
    return _within(image, MAX_AUTO_SIDE) if sides is None else ImageOps.fit(image, sides)


def _within(image: Image.Image, side: int) -> Image.Image:
    """Return `image` with no side longer than `side`, and never enlarged."""
    return image if max(image.size) <= side else ImageOps.contain(image, (side, side))


def _edited(
    image: Image.Image, wishes: list[Wish], chance: Random, tell: Callable[[], None]
) -> Image.Image:
    """Return `image` with every wish granted, in their order; `tell` is called after each stage."""
    limit = max(MAX_AUTO_SIDE, *image.size)
    for wish in wishes:
        touch = Touch(image.convert("RGB"), wish.strength, chance)
        for stage in wish.instruction.effect:
            image = _through(stage, image, touch)
            tell()
        image = _within(image, limit)  # each rotation by 45 degrees doubles the pixels
    return image


def _through(stage: Stage, image: Image.Image, touch: Touch) -> Image.Image:
    """Return `image` after `stage`; its alpha channel, if it has one, goes along where pixels move."""
    if image.mode != "RGBA":
        return stage(image, touch)
    alpha = image.getchannel("A")
    result = stage(image.convert("RGB"), touch)
    result.putalpha(stage(alpha, touch) if stage in MOVES else alpha)
    return result
