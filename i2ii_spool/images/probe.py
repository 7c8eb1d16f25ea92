"""Judge a picture by its header and its end, before a pixel is decoded."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from i2ii_spool.errors import InvalidRequest, TooLarge, UnsupportedPicture
from i2ii_spool.images import sandbox
from i2ii_spool.jobs.folder import open_regular

EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "TIFF": "tif"}
IMAGE_SUFFIXES = {f".{extension}" for extension in EXTENSIONS.values()} | {".jpeg", ".tiff"}

# Diffusion models cut a picture into patches; beyond this aspect one side would be left with none.
MAX_ASPECT = 16
MIN_SIDE = 8

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
"""How these begin."""

# A progressive JPEG comes in some ten scans. One may hold hundreds of thousands, and each costs as
# much as the picture.
MAX_SCANS = 100
SCAN = b"\xff\xda"
READ_AT_ONCE = 2**20

# A picture in memory may take a hundred times its file: no more than two are decoded, at the door,
# at a time.
_decoding = threading.Semaphore(2)
DECODING_SECONDS = 60


@dataclass(frozen=True)
class Header:
    """What the header of a picture says: its extension here (`png`, `jpg`...), width and height in
    pixels."""

    extension: str
    width: int
    height: int


def inspect(path: Path, *, max_pixels: int, field: str = "image") -> Header:
    """Judge a picture that somebody has sent: by its header first, before a pixel is decoded, then
    to its end.

    Raises `UnsupportedPicture` for what is not a picture of a known format, or is truncated or
    damaged; `TooLarge` for more than `max_pixels` pixels; `InvalidRequest` for sides that no engine
    can use. The error names `field`.
    """
    with open_regular(path) as file:
        return inspect_file(file, max_pixels=max_pixels, field=field)


def inspect_file(file: BufferedReader, *, max_pixels: int, field: str = "image") -> Header:
    """Like `inspect`, of an open file."""
    if not file.peek(len(PNG)).startswith((PNG, JPEG)):
        return _inspect_elsewhere(file, max_pixels, field)
    image = _open(file, max_pixels, field)
    if isinstance(image, JpegImagePlugin.JpegImageFile) and not _ends_as_jpeg(file):
        return _inspect_elsewhere(file, max_pixels, field)
    if isinstance(image, PngImagePlugin.PngImageFile):
        _verify(image, field)
    return Header(_extension(str(image.format)), *image.size)


def _extension(kind: str) -> str:
    return EXTENSIONS["JPEG" if kind == "MPO" else kind]


def _verify(image: PngImagePlugin.PngImageFile, field: str) -> None:
    try:
        image.verify()  # every chunk's checksum, to the end, without a pixel in memory
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error...
        _raise_the_disks(error)
        raise _damaged(field, error) from error


def _ends_as_jpeg(file: BinaryIO) -> bool:
    """Whether the file ends with the end-of-image marker, which cannot occur within a JPEG's coded
    pixels.

    Beyond that, decoding would tell nothing: libjpeg only warns of damage. Files with more behind
    the marker (phones append thumbnails and films) are decoded.
    """
    return os.pread(file.fileno(), 2, os.fstat(file.fileno()).st_size - 2) == b"\xff\xd9"


def _inspect_elsewhere(file: BinaryIO, max_pixels: int, field: str) -> Header:
    """Have the picture judged, and decoded, by a process whose memory and time are limited and
    whose death is not ours.

    These formats have to be read whole before they say anything of themselves.
    """
    command = [sys.executable, "-m", sandbox.__name__, str(max_pixels), *EXTENSIONS]
    with _decoding:
        file.seek(0)
        try:
            judged = subprocess.run(
                command, stdin=file, capture_output=True, text=True, timeout=DECODING_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise UnsupportedPicture(
                f"{field} takes too long to decode: save it anew", field=field
            ) from None
    if judged.returncode == sandbox.UNKNOWN:
        raise _unknown(field)
    kind, *sides = judged.stdout.split() or ("", 0, 0)
    width, height = map(int, sides)
    if kind:
        _check_sides(width, height, max_pixels, field)
    if judged.returncode < 0:
        raise _damaged(field, f"its decoder died of {signal.Signals(-judged.returncode).name}")
    if judged.returncode != 0:
        raise _damaged(field, judged.stderr.strip().rpartition("\n")[2])
    return Header(_extension(kind), width, height)


def _raise_the_disks(error: Exception) -> None:
    """Raise an error that is the disk's; a decoder's `OSError` has no number."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _damaged(field: str, said: object) -> UnsupportedPicture:
    return UnsupportedPicture(f"{field} is truncated or damaged: {said}", field=field)


def _unknown(field: str) -> UnsupportedPicture:
    return UnsupportedPicture(
        f"{field} is not a picture that is read here; send {', '.join(EXTENSIONS)}", field=field
    )


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


def _check_scans(image: ImageFile.ImageFile, field: str) -> None:
    """Count the scans of a JPEG: within its coded pixels no byte pair looks like the start of one."""
    if not image.info.get("progressive"):
        return
    descriptor, at, scans = cast(BinaryIO, image.fp).fileno(), 0, 0
    while chunk := os.pread(descriptor, READ_AT_ONCE, at):
        scans += chunk.count(SCAN)
        at += len(chunk)
    if scans > MAX_SCANS:
        raise UnsupportedPicture(
            f"{field} is a JPEG of {scans} scans; at most {MAX_SCANS} are read: save it anew",
            field=field,
        )


def _open(file: BinaryIO, max_pixels: int, field: str) -> ImageFile.ImageFile:
    """Open a picture and judge its header."""
    try:
        image = Image.open(file, formats=list(EXTENSIONS))
    except UnidentifiedImageError:
        raise _unknown(field) from None
    except Exception as error:
        _raise_the_disks(error)
        raise _damaged(field, error) from error
    _check_sides(*image.size, max_pixels, field)
    _check_scans(image, field)
    return image
