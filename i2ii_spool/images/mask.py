"""A mask: the picture that says which pixels of another one are edited.

Its transparent pixels are, as in OpenAI's API; where it is opaque, the pixels of the input are
pasted back after the edit; between, the two are mixed.
"""

from typing import cast

from PIL import Image, ImageChops, ImageFilter

from i2ii_spool.errors import InvalidRequest

Size = tuple[int, int]
"""Width and height in pixels."""
OPAQUE = 255


def least_alpha(image: Image.Image) -> int:
    """Return the alpha, 0 to 255, of the most transparent pixel."""
    if image.mode != "RGBA":
        return OPAQUE
    least, _ = cast(tuple[int, int], image.getchannel("A").getextrema())
    return least


def check_mask(mask: Size, picture: Size, least: int, field: str = "mask") -> None:
    """Raise `InvalidRequest` for a mask that does not fit the picture, or that edits nothing.

    Both sizes are those of the upright pictures; `least` is the `least_alpha` of the mask.
    """
    if mask != picture:
        raise InvalidRequest(
            f"{field} has {mask[0]}x{mask[1]} pixels and the first picture {picture[0]}x"
            f"{picture[1]}, upright; make {field} of the picture's size",
            field=field,
        )
    if least == OPAQUE:
        raise InvalidRequest(
            f"{field} has no transparent pixel, so that nothing would be edited; erase what is to "
            "be edited, and save it as a PNG with transparency",
            field=field,
        )


def paste_back(
    edited: Image.Image, picture: Image.Image, mask: Image.Image, feather: int
) -> Image.Image:
    """Return the picture with what its mask leaves transparent taken from `edited`.

    `picture` and `mask`, RGBA, have the same size, and so has the result. Within `feather` pixels
    of an edge of the mask, inside what is edited, the two are mixed. Opaque pixels of the mask stay
    exactly as they were.
    """
    if edited.size != picture.size:
        edited = edited.resize(picture.size, Image.Resampling.LANCZOS)
    share = ImageChops.invert(mask.getchannel("A"))
    if feather:
        # At a straight edge half of what is around a pixel is edited, and less at a corner.
        edited_at_all = share.point(lambda value: OPAQUE if value else 0)
        around = edited_at_all.filter(ImageFilter.BoxBlur(feather))
        inside = around.point(lambda value: max(0, 2 * value - OPAQUE))
        share = ImageChops.multiply(share, inside)
    mode = "RGBA" if "RGBA" in (edited.mode, picture.mode) else "RGB"
    return Image.composite(edited.convert(mode), picture.convert(mode), share)
