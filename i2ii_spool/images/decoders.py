"""Hand a picture to the decoder of its format, and of some only what pixels depend on."""

from collections.abc import Sequence
from io import BufferedReader
from typing import cast

from PIL import Image, ImageFile

from i2ii_spool.images import bmff, jpeg, png, tiff, webp
from i2ii_spool.images.excerpt import Excerpt, NotRead, Parts, Piece
from i2ii_spool.images.source import Source

# The callers check the size themselves. Pillow's limit is another number, and only warns.
Image.MAX_IMAGE_PIXELS = None


def walk(file: BufferedReader, name: str) -> Parts | None:
    """Return the parts of a picture; None for GIF, which only its decoder reads.

    `name` is the format as `formats.identify` returns it. Raises `Damaged`, `NotRead`.
    """
    if name == "PNG":
        return png.walk(file)
    walkers = {"JPEG": jpeg.walk, "TIFF": tiff.walk, "WEBP": webp.walk}
    walkers |= {"AVIF": bmff.walk, "HEIC": bmff.walk}
    return walkers[name](Source(file.fileno())) if name in walkers else None


def open_decoder(
    file: BufferedReader, name: str, pieces: Sequence[Piece] | None
) -> ImageFile.ImageFile:
    """Open a picture of the format `name`: its `pieces`, or all of it.

    Raises `UnidentifiedImageError` if Pillow does not know the format in it, and what decoders
    raise.
    """
    if name == "HEIC":
        # Of the extra `heic`: `formats.EXTENSIONS` has the format only where it is installed.
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    file.seek(0)
    whole = file if pieces is None else BufferedReader(Excerpt(file.fileno(), pieces))
    return Image.open(whole, formats=["HEIF" if name == "HEIC" else name])


def check_samples(image: Image.Image) -> None:
    """Raise `NotRead` for a decoded picture of which it is not known what is black and white."""
    if image.mode == "I":
        raise NotRead("samples of 32 bits, or with a sign; save it with 8 or 16 bits")
    if image.mode == "F":
        darkest, brightest = cast(tuple[float, float], image.getextrema())
        if not 0 <= darkest <= brightest <= 1:
            raise NotRead(
                f"samples from {darkest:g} to {brightest:g}; 0 must be black, and 1 white"
            )
