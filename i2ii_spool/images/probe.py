"""Inspect a picture by its header and its end, before a pixel is decoded."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from PIL import (
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    features,
)

from i2ii_spool.errors import InvalidRequest, TooLarge, UnsupportedPicture
from i2ii_spool.images import sandbox
from i2ii_spool.jobs.folder import open_regular

# `open_image` checks the size itself, by the header. Pillow's limit is another number, and only
# warns.
Image.MAX_IMAGE_PIXELS = None

EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "TIFF": "tif"}
"""File extensions by Pillow's names of the formats that are accepted."""
if features.check("avif"):
    EXTENSIONS["AVIF"] = "avif"
# Pillow calls a JPEG that holds several pictures MPO.
EXTENSION_OF = {**EXTENSIONS, "MPO": EXTENSIONS["JPEG"]}
IMAGE_SUFFIXES = {f".{extension}" for extension in EXTENSIONS.values()} | {".jpeg", ".tiff"}

# Diffusion models cut a picture into patches. Beyond this aspect ratio one side would have none.
MAX_ASPECT = 16
MIN_SIDE = 8

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
JPEG_END = b"\xff\xd9"
JPEG_SCAN = b"\xff\xda"
# A progressive JPEG has about ten scans. It can have hundreds of thousands, and decoding each costs
# as much as decoding the picture.
MAX_SCANS = 100
CHUNK_BYTES = 2**20

# A decoded picture can take a hundred times the memory of its file: decode at most two at a time.
_decoding = threading.Semaphore(2)
DECODING_SECONDS = 60


@dataclass(frozen=True)
class Header:
    """What the header of a picture says."""

    extension: str
    """Its file extension in a job folder: `png`, `jpg`..."""
    width: int
    """In pixels, like `height`."""
    height: int


def inspect(path: Path, *, max_pixels: int, field: str = "image") -> Header:
    """Inspect an untrusted picture: its header, then its end.

    Raises `UnsupportedPicture` if it has no known format, is truncated or damaged; `TooLarge` if it
    has more than `max_pixels` pixels; `InvalidRequest` if no engine can use its sides. The error
    names `field`.
    """
    with open_regular(path) as file:
        return inspect_file(file, max_pixels=max_pixels, field=field)


def inspect_file(file: BufferedReader, *, max_pixels: int, field: str = "image") -> Header:
    """Like `inspect`, for an open file."""
    if not file.peek(len(PNG_MAGIC)).startswith((PNG_MAGIC, JPEG_MAGIC)):
        return _inspect_in_sandbox(file, max_pixels, field)
    image = open_image(file, max_pixels, field)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        # The end-of-image marker cannot occur in coded pixels. To decode a JPEG that ends with it
        # would detect nothing more: libjpeg only warns of damage. A file with data behind the
        # marker (phones append thumbnails and videos) is decoded instead.
        size = os.fstat(file.fileno()).st_size
        if os.pread(file.fileno(), 2, size - 2) != JPEG_END:
            return _inspect_in_sandbox(file, max_pixels, field)
    if isinstance(image, PngImagePlugin.PngImageFile):
        with decoder_errors(field):
            image.verify()  # the checksum of every chunk, without decoding a pixel
    return Header(EXTENSION_OF[str(image.format)], *image.size)


def open_image(file: BinaryIO, max_pixels: int, field: str) -> ImageFile.ImageFile:
    """Open a picture and check its header. Raises the errors of `inspect`."""
    with decoder_errors(field):
        image = Image.open(file, formats=list(EXTENSIONS))
    _check_sides(*image.size, max_pixels, field)
    _check_scans(image, field)
    return image


@contextmanager
def decoder_errors(field: str) -> Iterator[None]:
    """Raise `UnsupportedPicture` for every error of a decoder; let errors of the disk through.

    Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
    """
    try:
        yield
    except UnidentifiedImageError:
        raise _unknown_format(field) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the disk: the OSError of a decoder has no number
        raise _damaged(field, error) from error


def _inspect_in_sandbox(file: BinaryIO, max_pixels: int, field: str) -> Header:
    """Have the picture decoded by a process with limits on memory and time (`sandbox`).

    The formats that come here must be read to their end before their header is complete.
    """
    command = [sys.executable, "-m", sandbox.__name__, str(max_pixels), *EXTENSIONS]
    with _decoding:
        file.seek(0)
        try:
            ran = subprocess.run(
                command, stdin=file, capture_output=True, text=True, timeout=DECODING_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise UnsupportedPicture(
                f"{field} takes too long to decode: save it again", field=field
            ) from None
    if ran.returncode == sandbox.UNKNOWN:
        raise _unknown_format(field)
    kind, *sides = ran.stdout.split() or ("", 0, 0)
    width, height = map(int, sides)
    if kind:
        _check_sides(width, height, max_pixels, field)
    if ran.returncode < 0:
        raise _damaged(field, f"its decoder died of {signal.Signals(-ran.returncode).name}")
    if ran.returncode != 0:
        raise _damaged(field, ran.stderr.strip().rpartition("\n")[2])
    return Header(EXTENSION_OF[kind], width, height)


def _unknown_format(field: str) -> UnsupportedPicture:
    return UnsupportedPicture(
        f"{field} is not a picture in a supported format; send {', '.join(EXTENSIONS)}", field=field
    )


def _damaged(field: str, reason: object) -> UnsupportedPicture:
    return UnsupportedPicture(f"{field} is truncated or damaged: {reason}", field=field)


def _check_sides(width: int, height: int, max_pixels: int, field: str) -> None:
    if width * height > max_pixels:
        raise TooLarge(
            f"{field} has {width}x{height} pixels, {width * height / 1e6:.0f} million; "
            f"at most {max_pixels / 1e6:.0f} million are allowed: make it smaller",
            field=field,
        )
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidRequest(
            f"{field} is {width}x{height} pixels; both sides must be at least {MIN_SIDE}, "
            f"and the longer at most {MAX_ASPECT} times the shorter",
            field=field,
        )


def _check_scans(image: ImageFile.ImageFile, field: str) -> None:
    """Count the scans of a JPEG. No byte pair in its coded pixels looks like the start of one."""
    if not image.info.get("progressive"):
        return
    descriptor, at, scans = cast(BinaryIO, image.fp).fileno(), 0, 0
    while chunk := os.pread(descriptor, CHUNK_BYTES, at):
        scans += chunk.count(JPEG_SCAN)
        at += len(chunk)
    if scans > MAX_SCANS:
        raise UnsupportedPicture(
            f"{field} is a JPEG of {scans} scans; at most {MAX_SCANS} are allowed: save it again",
            field=field,
        )
