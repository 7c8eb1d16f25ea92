"""Read a picture upright in sRGB for an engine, and encode a result."""

import io
from io import BufferedReader
from pathlib import Path

from PIL import Image, ImageChops, ImageCms, ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from i2ii_spool.images import trns
from i2ii_spool.images.decoders import check_samples
from i2ii_spool.images.exif import NORMAL, orientation
from i2ii_spool.images.formats import check_encodable
from i2ii_spool.images.png import GREY_AND_ALPHA
from i2ii_spool.images.probe import Opened, decoder_errors, open_image
from i2ii_spool.jobs.folder import open_regular

_SRGB = ImageCms.createProfile("sRGB")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each orientation upright."""
_PROFILED = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The mode of the pictures that a profile of each colour space belongs to."""


def read(path: Path, *, max_pixels: int) -> Image.Image:
    """Return the picture upright, in sRGB, as RGB, or as RGBA if it has transparency.

    Of a file with several frames this is the first. docs/inputs.md says what becomes of each kind.
    Raises the errors of `probe.inspect`: the file may have been replaced since it was inspected.
    """
    with open_regular(path) as file:
        opened = open_image(file, max_pixels, path.name)
        with decoder_errors(opened.name, path.name):
            opened.image.load()
            check_samples(opened.image)
            colour, alpha = _split(opened, file)
    image = _to_srgb(colour, _profile(opened))
    image.info.clear()
    if alpha is not None:
        image.putalpha(alpha)
    method = _UPRIGHT.get(_orientation(opened))
    return image if method is None else image.transpose(method)


def encode(image: Image.Image, output_format: str) -> bytes:
    """Return `image` as a `png`, `jpeg` or `webp` file, without metadata.

    JPEG has no transparency: transparent pixels are laid on white. Raises `InvalidRequest` if the
    sides of the picture are too long for the format.
    """
    check_encodable(*image.size, output_format)
    image = image.copy()
    image.info.clear()  # Pillow writes a comment, a profile or a transparent colour from there
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


def _orientation(opened: Opened) -> int:
    # The decoder of HEIC turns it; Pillow reports `irot` and `imir` of an AVIF as an orientation.
    if opened.name in ("WEBP", "AVIF"):
        return orientation(opened.image.info.get("exif", b""))
    return opened.parts.orientation if opened.parts else NORMAL


def _profile(opened: Opened) -> bytes | None:
    """Return the ICC profile of the picture's numbers; None for sRGB."""
    embedded: bytes | None = opened.image.info.get("icc_profile")
    return embedded or (opened.parts.profile if opened.parts else None)


# --- colours and transparency ---------------------------------------------------------------------


def _split(opened: Opened, file: BufferedReader) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours (L, RGB or CMYK) and the transparency (L) of a decoded picture."""
    image: Image.Image = opened.image
    parts = opened.parts
    if parts is not None and parts.transparency:
        alpha = trns.transparency(image, parts, file)
    elif image.has_transparency_data:
        # Pillow makes RGBA of a PNG of grey and alpha of 16 bits.
        is_grey = image.mode in ("LA", "La") or (parts and parts.colour_type == GREY_AND_ALPHA)
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.getchannel("R") if is_grey else image
    else:
        alpha = None
    if image.mode.startswith("I;16"):
        image = _to_8_bit(opened.image)
    elif image.mode == "F":
        image = image.point(lambda value: value * 255 + 0.5).convert("L")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB"), alpha


def _to_8_bit(image: ImageFile.ImageFile) -> Image.Image:
    """Return grey of up to 16 bits scaled to 8; Pillow's own conversion clips it to white."""
    depth, is_inverted = 16, False
    if isinstance(image, TiffImageFile):
        (depth,) = image.tag_v2.get(BITSPERSAMPLE, (16,))
        is_inverted = image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0  # 0 is white
    scale = 1 / 2 ** (depth - 8)
    grey = image.convert("I").point(lambda value: value * scale).convert("L")
    return ImageChops.invert(grey) if is_inverted else grey


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the colours in sRGB, which engines and browsers expect; phones write Display P3."""
    if profile is None:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode != _PROFILED.get(source.profile.xcolor_space.strip()):
            return image.convert("RGB")
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert("RGB")  # an unreadable profile: take the values as sRGB
    assert converted is not None  # profileToProfile returns None only for in-place conversion
    return converted
