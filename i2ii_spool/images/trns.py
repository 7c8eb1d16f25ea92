"""The transparency that the `tRNS` chunk of a PNG states: compared at the depth of the file.

Pillow reduces 16 bits to 8 first, and takes grey of 1, 2 or 4 bits for 8.
"""

import struct
from io import BufferedReader

from PIL import Image, ImageChops

from i2ii_spool.images.decoders import open_decoder
from i2ii_spool.images.excerpt import Parts
from i2ii_spool.images.png import GREY, PALETTE, RGB


def transparency(image: Image.Image, parts: Parts, file: BufferedReader) -> Image.Image | None:
    """Return the transparency (L) of the decoded `image`; None if its `tRNS` chunk does not fit."""
    chunk = parts.transparency or b""
    if parts.colour_type == PALETTE:
        return image.point(list(chunk.ljust(256, b"\xff")), "L")
    if parts.colour_type == GREY and len(chunk) >= 2:
        (key,) = struct.unpack_from(">H", chunk)
        return _opaque_but_grey(image, key, parts.depth)
    if parts.colour_type == RGB and len(chunk) >= 6:
        keys = struct.unpack_from(">3H", chunk)
        lower = _opaque_but(_lower_bytes(image, parts, file), [key & 0xFF for key in keys])
        if parts.depth == 8:
            return lower
        return ImageChops.lighter(lower, _opaque_but(image, [key >> 8 for key in keys]))
    return None


def _lower_bytes(image: Image.Image, parts: Parts, file: BufferedReader) -> Image.Image:
    """Return the picture with the lower half of each sample of 16 bits."""
    if parts.depth == 8:
        return image
    with open_decoder(file, "PNG", parts.pieces) as lower:
        lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]  # as little-endian
        return lower.copy()


def _opaque_but_grey(image: Image.Image, key: int, depth: int) -> Image.Image:
    if depth == 16:
        wide = image.convert("I")
        above = wide.point(lambda value: value * 1 + -key).convert("L")
        below = wide.point(lambda value: value * -1 + key).convert("L")
        return ImageChops.lighter(above, below).point(_nonzero())
    levels = 2**depth - 1
    return _opaque_but(image.convert("L"), [(key & levels) * 255 // levels])


def _opaque_but(image: Image.Image, keys: list[int]) -> Image.Image:
    """Return 0 where every band has its key, and 255 elsewhere."""
    masks = [
        band.point([0 if value == key else 255 for value in range(256)])
        for band, key in zip(image.split(), keys, strict=True)
    ]
    opaque = masks[0]
    for mask in masks[1:]:
        opaque = ImageChops.lighter(opaque, mask)
    return opaque


def _nonzero() -> list[int]:
    return [0, *[255] * 255]
