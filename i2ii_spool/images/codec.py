"""Read a picture upright in sRGB for an engine, and encode a result."""

import io
from io import BufferedReader
from pathlib import Path

from PIL import Image

from i2ii_spool.images.formats import check_encodable
from i2ii_spool.images.probe import identified
from i2ii_spool.images.sandbox import pool
from i2ii_spool.jobs.folder import open_regular


def read(path: Path, *, max_pixels: int) -> Image.Image:
    """Return the picture upright, in sRGB, as RGB, or as RGBA if it has transparency.

    The sandbox decodes it: a crafted picture does not end the process of a loaded model. Raises the
    errors of `probe.inspect`: the file may have been replaced since it was inspected.
    """
    with open_regular(path) as file:
        name = identified(file, path.name)
        return pool.read(file, name=name, max_pixels=max_pixels, field=path.name)


def thumbnail(
    file: BufferedReader, name: str, *, side: int, most_bytes: int, max_pixels: int
) -> bytes:
    """Return a WebP of a picture called `name`, upright in sRGB, its longer side at most `side`.

    It has at most `most_bytes`: of noise, at a lower quality and then size. The sandbox decodes the
    picture. Raises the errors of `probe.inspect`.
    """
    kind = identified(file, name)
    image = pool.reduce(file, name=kind, max_pixels=max_pixels, field=name, side=side)
    while True:
        for quality in THUMBNAIL_QUALITIES:
            if len(data := encode(image, "webp", quality)) <= most_bytes:
                return data
        image = image.reduce(2)


THUMBNAIL_QUALITIES = (80, 60, 40, 20)
"""One is tried after the other."""
QUALITY = 95
"""Of a JPEG or WebP, 0 to 100."""


def encode(image: Image.Image, output_format: str, quality: int | None = None) -> bytes:
    """Return `image` as a `png`, `jpeg` or `webp` file, without metadata.

    JPEG has no transparency: transparent pixels are laid on white. Raises `InvalidRequest` if the
    sides of the picture are too long for the format.
    """
    check_encodable(*image.size, output_format)
    image = image.copy()
    image.info.clear()  # Pillow writes a comment, a profile or a transparent colour from there
    buffer = io.BytesIO()
    quality = QUALITY if quality is None else quality
    match output_format:
        case "png":
            # Level 6 takes four times as long as level 1 for a file a tenth smaller
            # (benchmarks/pictures.py).
            image.save(buffer, "PNG", compress_level=1)
        case "jpeg":
            on_white(image).save(buffer, "JPEG", quality=quality, subsampling=0)
        case "webp":
            image.save(buffer, "WEBP", quality=quality)
        case _:
            raise ValueError(output_format)
    return buffer.getvalue()


def on_white(image: Image.Image) -> Image.Image:
    """Return `image` as RGB, laid on white where it is transparent."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
