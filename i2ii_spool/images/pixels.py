"""Decode a picture: whether all of it is there, and its pixels upright in sRGB.

Only the processes of the sandbox do this.
"""

import io
import zlib
from io import BufferedReader
from typing import NamedTuple

from PIL import Image, ImageChops, ImageCms, ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from i2ii_spool.images import jpeg, trns
from i2ii_spool.images.checks import check_pixels, check_sides, decoder_errors
from i2ii_spool.images.decoders import check_samples, open_decoder, walk
from i2ii_spool.images.excerpt import Damaged, Parts
from i2ii_spool.images.exif import NORMAL, orientation
from i2ii_spool.images.png import GREY_AND_ALPHA

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


class Opened(NamedTuple):
    """A picture whose sides are checked, and of which no pixel has been decoded."""

    name: str
    """Of its format (`formats.EXTENSIONS`)."""
    image: ImageFile.ImageFile
    parts: Parts | None
    """None for GIF. Of the others `image` shows the pixels alone."""


def judge(file: BufferedReader, *, name: str, max_pixels: int, field: str) -> tuple[int, int]:
    """Decode the whole picture; return its width and height.

    Raises `UnsupportedPicture` if it is damaged or not read, and the errors of its sides.
    """
    with decoder_errors(name, field):
        opened = _open(file, name, max_pixels, field)
        _load(file, opened)
    return opened.image.size


def read(file: BufferedReader, *, name: str, max_pixels: int, field: str) -> Image.Image:
    """Return the picture upright, in sRGB, as RGB, or as RGBA if it has transparency.

    Of a file with several frames this is the first. docs/inputs.md says what becomes of each kind.
    Raises the errors of `judge`.
    """
    with decoder_errors(name, field):
        opened = _open(file, name, max_pixels, field)
        colour, alpha = _decoded(file, opened)
    return _upright(opened, colour, alpha)


def reduce(
    file: BufferedReader, *, name: str, max_pixels: int, field: str, side: int
) -> Image.Image:
    """Like `read`, made smaller so that no side has more than `side` pixels.

    A result may have any aspect ratio: only its pixels are limited.
    """
    with decoder_errors(name, field):
        parts = walk(file, name)
        image = open_decoder(file, name, parts.pieces if parts else None)
        check_pixels(*image.size, max_pixels, field)
        opened = Opened(name, image, parts)
        if name == "JPEG" and parts is not None and parts.is_whole:
            # Its decoder leaves out what would be thrown away: eight times as fast for a photo.
            image.draft(None, (2 * side, 2 * side))
        colour, alpha = _decoded(file, opened)
    whole = _upright(opened, colour, alpha)
    whole.thumbnail((side, side), Image.Resampling.LANCZOS)
    return whole


def _decoded(file: BufferedReader, opened: Opened) -> tuple[Image.Image, Image.Image | None]:
    _load(file, opened)
    return _split(opened, file)


def _upright(opened: Opened, colour: Image.Image, alpha: Image.Image | None) -> Image.Image:
    image = _to_srgb(colour, _profile(opened))
    if alpha is not None:
        image.putalpha(alpha)
    method = _UPRIGHT.get(_orientation(opened))
    return image if method is None else image.transpose(method)


def _open(file: BufferedReader, name: str, max_pixels: int, field: str) -> Opened:
    parts = walk(file, name)
    image = open_decoder(file, name, parts.pieces if parts else None)
    check_sides(*image.size, max_pixels, field)
    return Opened(name, image, parts)


def _load(file: BufferedReader, opened: Opened) -> None:
    """Decode the pixels. Raises `Damaged` if some are missing, which libjpeg only warns of."""
    opened.image.load()
    check_samples(opened.image)
    if opened.name == "JPEG" and opened.parts and not opened.parts.is_whole:
        _check_end(file, opened.parts, _checksum(opened.image))


def _check_end(file: BufferedReader, parts: Parts, decoded: int) -> None:
    """Raise `Damaged` if pixels of a JPEG without an end depend on what follows."""
    for pieces in jpeg.continuations(parts.pieces):
        with open_decoder(file, "JPEG", pieces) as image:
            if _checksum(image) != decoded:
                raise Damaged("its last pixels are missing")


def _checksum(image: Image.Image) -> int:
    return zlib.crc32(image.tobytes())


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
