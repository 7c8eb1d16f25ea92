"""What a mask leaves of a picture."""

import pytest
from PIL import Image

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.images.mask import check_mask, paste_back

SIZE = (64, 48)
KEPT = (0, 0, 40, 48)
"""The left part, which the mask keeps."""


def flat(colour: str, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, SIZE, colour)


def mask(kept: tuple[int, int, int, int] = KEPT) -> Image.Image:
    made = flat("#00000000", "RGBA")
    made.paste((255, 255, 255, 255), kept)
    return made


def row(image: Image.Image, x_from: int, x_to: int, y: int = 24) -> list[int]:
    """The red of some pixels of a row."""
    return [image.getchannel("R").getpixel((x, y)) for x in range(x_from, x_to)]  # type: ignore[misc]


def test_without_a_feather_each_pixel_is_kept_or_edited() -> None:
    made = paste_back(flat("red"), flat("black"), mask(), 0)
    assert made.mode == "RGB"
    assert row(made, 38, 42) == [0, 0, 255, 255]


def test_a_feather_is_inside_what_is_edited() -> None:
    made = paste_back(flat("red"), flat("black"), mask(), 4)
    assert set(row(made, 0, 40)) == {0}
    edge = row(made, 40, 46)
    assert edge == sorted(edge)
    assert (0 < edge[0] < 255, edge[-1]) == (True, 255)
    assert set(row(made, 46, 64)) == {255}, "an edge of the picture is none of the mask"


def test_a_corner_that_is_kept_stays_exactly() -> None:
    around = mask((0, 0, 64, 48))
    around.paste((0, 0, 0, 0), (0, 0, 32, 24))
    made = paste_back(flat("red"), flat("black"), around, 8)
    kept = [made.getpixel((x, y)) for x in range(64) for y in range(48) if x >= 32 or y >= 24]
    assert set(kept) == {(0, 0, 0)}


def test_what_is_half_transparent_is_mixed() -> None:
    half = flat("#00000080", "RGBA")
    assert set(row(paste_back(flat("red"), flat("black"), half, 4), 0, 64)) == {127}


def test_a_result_of_another_size_is_fitted() -> None:
    made = paste_back(Image.new("RGB", (640, 480), "red"), flat("black"), mask(), 0)
    assert made.size == SIZE
    assert row(made, 38, 42) == [0, 0, 255, 255]


def test_the_transparency_of_a_picture_is_kept_with_its_pixels() -> None:
    clear = flat("#0000ff00", "RGBA")
    made = paste_back(flat("red"), clear, mask(), 0)
    assert made.getpixel((0, 0)) == (0, 0, 255, 0)
    assert made.getpixel((63, 0)) == (255, 0, 0, 255)


@pytest.mark.parametrize(
    ("size", "least", "said"),
    [
        ((48, 64), 0, "mask has 48x64 pixels and the first picture 64x48"),
        (SIZE, 255, "mask has no transparent pixel"),
    ],
)
def test_a_mask_that_cannot_be_one_is_refused(size: tuple[int, int], least: int, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        check_mask(size, SIZE, least)
    assert refused.value.field == "mask"
