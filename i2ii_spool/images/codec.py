"""Read a picture upright in sRGB for an engine, and encode a result."""

import io
from pathlib import Path

from PIL import Image, ImageCms, ImageOps

from i2ii_spool.images.probe import decoder_errors, open_image
from i2ii_spool.jobs.folder import open_regular

_SRGB = ImageCms.createProfile("sRGB")


def read(path: Path, *, max_pixels: int) -> Image.Image:
    """Return the picture upright, in sRGB, as RGB, or as RGBA if it has transparency.

    Of a file with several frames this is the first. Raises the errors of `probe.inspect`: the file
    may have been replaced since it was inspected.
    """
    with open_regular(path) as file:
        image = open_image(file, max_pixels, path.name)
        profile = image.info.get("icc_profile")
        with decoder_errors(path.name):
            image.load()
        upright = _to_srgb(_to_8_bit(_upright(image)), profile)
        return upright.convert("RGBA" if upright.has_transparency_data else "RGB")


def encode(image: Image.Image, output_format: str) -> bytes:
    """Return `image` as a `png`, `jpeg` or `webp` file.

    JPEG has no transparency: transparent pixels are laid on white.
    """
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
    except Exception:  # unreadable EXIF gives no orientation
        return image


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit grey scaled to 8 bits; Pillow's own conversion would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert the colours to sRGB, which engines and browsers expect; phones write Display P3."""
    if profile is None or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        converted = ImageCms.profileToProfile(image, io.BytesIO(profile), _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # an unreadable profile: take the values as sRGB
    assert converted is not None  # profileToProfile returns None only for in-place conversion
    return converted
