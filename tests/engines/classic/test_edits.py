"""Seeds, sizes, transparency, progress and errors of the classic engine."""

import subprocess
import sys

import pytest
from PIL import Image, ImageOps

from i2ii_spool.engines.classic import MAX_AUTO_SIDE, ClassicEngine
from i2ii_spool.engines.classic.instructions import INSTRUCTIONS
from i2ii_spool.engines.classic.language import understand
from i2ii_spool.errors import Cancelled
from i2ii_spool.jobs.request import EditRequest
from tests.engines.classic import TURNS, distance, edit, english, landscape, light, nothing, same


@pytest.mark.parametrize(
    "prompt", ["watercolour", "oil painting", "film grain", "winter", "comic", "misty"]
)
def test_the_seed_decides_the_texture_and_nothing_else(prompt: str) -> None:
    first, again, other = (edit(prompt, seed=seed) for seed in (5, 5, 6))
    assert same(first, again)
    assert 0 < distance(first, other) < 120
    assert abs(light(first) - light(other)) < 10


def test_pictures_of_one_request_have_seeds_that_follow() -> None:
    request = EditRequest(prompt="watercolour", n=3, seed=7)
    pictures = ClassicEngine().edit([landscape()], request, nothing)
    assert all(same(picture, edit("watercolour", seed=7 + i)) for i, picture in enumerate(pictures))


def test_the_largest_seed_is_fine() -> None:
    ClassicEngine().edit([landscape()], EditRequest(prompt="grain", n=2, seed=2**32 - 1), nothing)


@pytest.mark.parametrize(
    ("size", "prompt", "sides", "expected"),
    [
        ("auto", "sepia", (160, 120), (160, 120)),
        ("auto", "rotate", (160, 120), (120, 160)),
        ("auto", "sepia", (MAX_AUTO_SIDE * 2, 300), (MAX_AUTO_SIDE, 150)),
        (
            "auto",
            "rotate 45 degrees",
            (MAX_AUTO_SIDE, MAX_AUTO_SIDE),
            (MAX_AUTO_SIDE, MAX_AUTO_SIDE),
        ),
        ("input", "rotate", (160, 120), (160, 120)),
        ("input", "sepia", (MAX_AUTO_SIDE + 10, 300), (MAX_AUTO_SIDE + 10, 300)),
        ("64x100", "sepia", (160, 120), (64, 100)),
        ("300x200", "rotate 30 degrees", (160, 120), (300, 200)),
    ],
)
def test_size(size: str, prompt: str, sides: tuple[int, int], expected: tuple[int, int]) -> None:
    assert edit(prompt, landscape(sides), size=size).size == expected


def test_size_crops_and_does_not_distort() -> None:
    assert same(edit("invert", size="64x64"), ImageOps.invert(ImageOps.fit(landscape(), (64, 64))))


@pytest.mark.parametrize("sides", [(8, 8), (8, 128), (128, 8)])
def test_every_instruction_takes_any_shape_and_mode(sides: tuple[int, int]) -> None:
    for instruction in INSTRUCTIONS:
        check_shape_and_mode(english(instruction), landscape(sides))


def check_shape_and_mode(prompt: str, image: Image.Image) -> None:
    """The edit of the picture is RGB; with transparency it is RGBA, and keeps it."""
    sides = image.size
    result = edit(prompt, image)
    assert result.mode == "RGB", prompt
    image.putalpha(Image.linear_gradient("L").resize(sides))
    before = image.copy()
    clear = edit(prompt, image)
    assert same(image, before), prompt
    assert clear.mode == "RGBA", prompt
    assert clear.size == result.size, prompt
    if prompt not in TURNS | {"pop art"}:
        assert same(clear.getchannel("A"), image.getchannel("A")), prompt


def test_alpha_moves_along() -> None:
    image = landscape()
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    assert same(edit("flip upside down", image).getchannel("A"), ImageOps.flip(alpha))
    assert same(edit("rotate", image).getchannel("A"), alpha.transpose(Image.Transpose.ROTATE_270))
    assert edit("rotate 45 degrees", image).getchannel("A").getpixel((0, 0)) == 0
    pop = edit("pop art", image).getchannel("A")
    assert same(pop.crop((0, 0, 80, 60)), pop.crop((80, 60, 160, 120)))


def test_progress_counts_every_stage_of_every_picture() -> None:
    told: list[tuple[int, int]] = []
    request = EditRequest(prompt="watercolour, then brighter", n=2)
    ClassicEngine().edit([landscape()], request, lambda step, steps: told.append((step, steps)))
    stages = sum(len(wish.instruction.effect) for wish in understand(request.prompt))
    assert told == [(step, 2 * stages) for step in range(1, 2 * stages + 1)]


@pytest.mark.parametrize(
    "prompt", ["watercolour", "oil painting", "ink wash", "pencil sketch", "cartoon", "comic"]
)
def test_paintings_have_enough_stages_to_watch(prompt: str) -> None:
    assert len(understand(prompt)[0].instruction.effect) >= 4


def test_what_on_step_raises_stops_the_edit_and_the_engine_goes_on() -> None:
    engine, steps_done = ClassicEngine(), []

    def stop_at_the_third(step: int, _: int) -> None:
        steps_done.append(step)
        if step == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        engine.edit([landscape()], EditRequest(prompt="watercolour", n=4), stop_at_the_third)
    assert steps_done == [1, 2, 3]
    again = engine.edit([landscape()], EditRequest(prompt="watercolour"), nothing)
    assert same(again[0], edit("watercolour"))


def test_info_says_what_it_is() -> None:
    engine = ClassicEngine()
    engine.load()
    engine.close()
    assert (engine.info.engine, engine.info.model) == ("classic", "classic")
    assert set(engine.info.versions) == {"pillow"}


PANORAMA = """
import pathlib, resource, sys
from PIL import Image
from i2ii_spool.engines.classic import ClassicEngine
from i2ii_spool.jobs.request import EditRequest

size = (16_000, 250)
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
most = used + int(sys.argv[1]) * size[0] * size[1]
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for prompt in sys.argv[2:]:
    try:
        request = EditRequest(prompt=prompt, size="input")
        ClassicEngine().edit([Image.new("RGB", size, "grey")], request, lambda *_: None)
    except MemoryError:
        sys.exit(prompt)
"""


@pytest.mark.parametrize(
    ("prompts", "bytes_per_pixel"),
    [([english(each) for each in INSTRUCTIONS], 48), (["tilt left, tilt left, tilt left"], 96)],
    ids=["each", "tilts"],
)
def test_a_panorama_takes_no_more_memory_than_its_pixels_need(
    prompts: list[str], bytes_per_pixel: int
) -> None:
    """Strokes and lamps were drawn on a square as wide as the picture: 3.4 GB for 32 000 x 2000."""
    command = [sys.executable, "-c", PANORAMA, str(bytes_per_pixel), *prompts]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_panorama_is_tilted_to_a_picture_of_four_times_its_pixels() -> None:
    turned = edit("rotate right by 45 degrees", Image.new("RGB", (2000, 50), "grey"))
    assert turned.width * turned.height == pytest.approx(4 * 2000 * 50, rel=0.05)
