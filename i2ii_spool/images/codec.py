"""Pictures: judged by their header at the door, read upright for the engine, encoded for the
result."""

import io
from pathlib import Path

from PIL import Image, ImageCms, ImageOps, features

from i2ii_spool.images.probe import EXTENSIONS, _damaged, _open, _raise_the_disks
from i2ii_spool.jobs.folder import open_regular

# `inspect` judges the size itself, from the header; Pillow's own limit would only warn, and at
# another number.
Image.MAX_IMAGE_PIXELS = None
if features.check("avif"):
    EXTENSIONS["AVIF"] = "avif"


def read(path: Path, *, max_pixels: int) -> Image.Image:
    """Return the picture upright, in sRGB, as RGB or (where it has transparency) RGBA; the first
    frame of many.

    Raises as `inspect` does: somebody may have put another picture there since.
    """
    with open_regular(path) as file:
        image = _open(file, max_pixels, path.name)
        profile = image.info.get("icc_profile")
        try:
            image.load()
        except Exception as error:
            _raise_the_disks(error)
            raise _damaged(path.name, error) from error
        return _to_rgb(_to_srgb(_to_8_bit(_upright(image)), profile))


def encode(image: Image.Image, output_format: str) -> bytes:
    """Return `image` as a `png`, `jpeg` or `webp` file. JPEG has no transparency: the picture is
    laid on white."""
    buffer = io.BytesIO()
    match output_format:
        case "png":
            # Level 6 takes four times as long as level 1 for a file a tenth smaller
            # (benchmarks/pictures.py).
            image.save(buffer, "PNG", compress_level=1)
        case "jpeg":
            on_white(image).save(buffer, "JPEG", quality=95, subsampling=0)
        case "webp":
            image.save(buffer, "WEBP", quality=95)
        case _:
            raise ValueError(output_format)
    return buffer.getvalue()


def on_white(image: Image.Image) -> Image.Image:
    """Return `image` as RGB, laid on white where it is transparent."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that cannot be read says nothing of an orientation
        return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit grey scaled to 8 bits; Pillow's own conversion would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the colours as sRGB: engines and browsers take them so, and phones write Display P3."""
    if profile is None or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        converted = ImageCms.profileToProfile(image, io.BytesIO(profile), _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a profile that cannot be read says nothing: the numbers stand as they are
    assert converted is not None  # None is for in-place conversion alone
    return converted


def _to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


_SRGB = ImageCms.createProfile("sRGB")
