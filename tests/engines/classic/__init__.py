"""What the tests of the classic engine share: a picture, one edit, and measures of a picture."""

from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps, ImageStat

from i2ii_spool.engines.classic import ClassicEngine
from i2ii_spool.engines.classic.instructions import INSTRUCTIONS, Instruction
from i2ii_spool.engines.classic.language import understand
from i2ii_spool.jobs.request import EditRequest

NAMES = [instruction.name for instruction in INSTRUCTIONS]
TURNS = {
    "mirror",
    "flip upside down",
    "upside down",
    "rotate right",
    "rotate left",
    "tilt right",
    "tilt left",
}


def nothing(*_: object) -> None:
    """Hears the steps, and does nothing."""


def english(instruction: Instruction) -> str:
    return instruction.english.split(" | ")[0]


def landscape(size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A sky that fades to the horizon, a green hill, a red house with a lit window: no two quarters
    alike."""
    width, height = size
    image = ImageOps.colorize(Image.linear_gradient("L").resize(size), "#4f86c6", "#f3e2c0")
    draw = ImageDraw.Draw(image)
    draw.ellipse((-width // 4, height // 2, width, height * 2), fill="#4c8a3a")
    draw.rectangle((width // 6, height // 3, width // 2, height * 3 // 4), fill="#a8402c")
    draw.rectangle((width // 4, height // 2, width // 3, height * 2 // 3), fill="#fff0a0")
    grain = Image.frombytes("L", size, Random(7).randbytes(width * height)).point(
        lambda level: 112 + level // 8
    )
    return ImageChops.soft_light(image, grain.convert("RGB"))


def edit(prompt: str, image: Image.Image | None = None, **fields: object) -> Image.Image:
    request = EditRequest.model_validate({"prompt": prompt, **fields})
    return ClassicEngine().edit([image or landscape()], request, nothing)[0]


def said(prompt: str) -> list[tuple[str, float]]:
    return [(english(wish.instruction), wish.strength) for wish in understand(prompt)]


def mean(image: Image.Image) -> list[float]:
    return ImageStat.Stat(image).mean


def light(image: Image.Image) -> float:
    return mean(image.convert("L"))[0]


def colour(image: Image.Image) -> float:
    return mean(image.convert("HSV"))[1]


def contrast(image: Image.Image) -> float:
    return ImageStat.Stat(image.convert("L")).stddev[0]


def edges(image: Image.Image) -> float:
    return mean(image.convert("L").filter(ImageFilter.FIND_EDGES))[0]


def warmth(image: Image.Image) -> float:
    red, _, blue = mean(image)
    return red - blue


def shades(image: Image.Image) -> int:
    return len(image.getcolors(image.width * image.height) or ())


def distance(one: Image.Image, other: Image.Image) -> float:
    return sum(mean(ImageChops.difference(one, other)))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


def phrases() -> list[tuple[str, Instruction]]:
    return [
        (phrase, instruction)
        for instruction in INSTRUCTIONS
        for phrase in f"{instruction.english} | {instruction.chinese}".split(" | ")
    ]
