"""Pictures: judged by their header at the door, read upright for the engine, encoded for the result."""

import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image, ImageCms, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, features

from i2ii_spool.errors import InvalidRequest, TooLarge, UnsupportedPicture
from i2ii_spool.job import open_regular

# `inspect` judges the size itself, from the header; Pillow's own limit would only warn, and at another number.
Image.MAX_IMAGE_PIXELS = None

EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "TIFF": "tif"}
if features.check("avif"):
    EXTENSIONS["AVIF"] = "avif"
SUFFIXES = {f".{extension}" for extension in EXTENSIONS.values()} | {".jpeg", ".tiff"}

# Diffusion models cut a picture into patches; beyond this aspect one side would be left with none.
MAX_ASPECT = 16
MIN_SIDE = 8

# A picture in memory may take a hundred times its file: no more than two are read whole, at the door, at a time.
_decoding = threading.Semaphore(2)


@dataclass(frozen=True)
class Header:
    """What the header of a picture says: its extension here (`png`, `jpg`...), width and height in pixels."""

    extension: str
    width: int
    height: int


def inspect(path: Path, *, max_pixels: int, field: str = "image") -> Header:
    """Judge a picture that somebody has sent: by its header first, before a pixel is decoded, then to its end.

    Raises `UnsupportedPicture` for what is not a picture of a known format, or is truncated or damaged; `TooLarge` for
    more than `max_pixels` pixels; `InvalidRequest` for sides that no engine can use. The error names `field`.
    """
    with open_regular(path) as file:
        return inspect_file(file, max_pixels=max_pixels, field=field)


def inspect_file(file: BinaryIO, *, max_pixels: int, field: str = "image") -> Header:
    """Like `inspect`, of an open file."""
    image = _open(file, field)
    extension = EXTENSIONS["JPEG" if image.format == "MPO" else str(image.format)]
    _check_sides(*image.size, max_pixels, field)
    header = Header(extension, *image.size)
    try:
        _check_whole(image)
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError...
        raise UnsupportedPicture(f"{field} is truncated or damaged: {error}", field=field) from error
    return header


def _check_sides(width: int, height: int, max_pixels: int, field: str) -> None:
    if width * height > max_pixels:
        raise TooLarge(
            f"{field} has {width}x{height} pixels, {width * height / 1e6:.0f} million; "
            f"at most {max_pixels / 1e6:.0f} million are read: make it smaller",
            field=field,
        )
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidRequest(
            f"{field} is {width}x{height} pixels; both sides must be at least {MIN_SIDE}, "
            f"and the longer at most {MAX_ASPECT} times the shorter",
            field=field,
        )


def _check_whole(image: ImageFile.ImageFile) -> None:
    """Raise whatever the decoder raises if the picture is truncated. Costs as little as its format allows."""
    if isinstance(image, JpegImagePlugin.JpegImageFile) and _ends_as_jpeg(image):
        return
    if isinstance(image, PngImagePlugin.PngImageFile):
        image.verify()  # every chunk's checksum, to the end, without a pixel in memory
        return
    with _decoding:
        image.draft("RGB", (image.width // 8, image.height // 8))  # a JPEG is read whole, at an eighth
        image.load()


def _ends_as_jpeg(image: ImageFile.ImageFile) -> bool:
    """Whether the file ends with the end-of-image marker, which cannot occur within a JPEG's coded pixels.

    Beyond that, decoding would tell nothing: libjpeg only warns of damage. Files with more behind the marker (phones
    append thumbnails and films) are decoded.
    """
    descriptor = cast(BinaryIO, image.fp).fileno()
    return os.pread(descriptor, 2, os.fstat(descriptor).st_size - 2) == b"\xff\xd9"


def read(path: Path) -> Image.Image:
    """Return the picture upright, in sRGB, as RGB or (where it has transparency) RGBA; the first frame of many."""
    with open_regular(path) as file:
        image = _open(file, path.name)
        try:
            image.load()
        except Exception as error:
            raise UnsupportedPicture(f"{path.name} is truncated or damaged: {error}", field="image") from error
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image)
    return _to_rgb(_to_srgb(_to_8_bit(upright), profile))


def encode(image: Image.Image, output_format: str) -> bytes:
    """Return `image` as a `png`, `jpeg` or `webp` file. JPEG has no transparency: the picture is laid on white."""
    buffer = io.BytesIO()
    match output_format:
        case "png":
            # Level 6 takes four times as long as level 1 for a file a tenth smaller (benchmarks/pictures.py).
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


def _open(file: BinaryIO, field: str) -> ImageFile.ImageFile:
    try:
        return Image.open(file, formats=list(EXTENSIONS))
    except UnidentifiedImageError:
        kinds = ", ".join(EXTENSIONS)
        raise UnsupportedPicture(f"{field} is not a picture that is read here; send {kinds}", field=field) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if getattr(error, "errno", None) is not None:  # the disk's word; a decoder's OSError has no number
            raise
        raise UnsupportedPicture(f"{field} is damaged: {error}", field=field) from error


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
    except ImageCms.PyCMSError:
        return image  # a profile that cannot be read says nothing: the numbers stand as they are
    assert converted is not None  # None is for in-place conversion alone
    return converted


def _to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


_SRGB = ImageCms.createProfile("sRGB")
