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

import PIL
from PIL import ImageFile, UnidentifiedImageError

import i2ii_spool
from i2ii_spool.errors import I2iiError, InvalidRequest, TooLarge, UnsupportedPicture
from i2ii_spool.images import sandbox
from i2ii_spool.images.decoders import open_decoder, walk
from i2ii_spool.images.excerpt import NotRead, Parts
from i2ii_spool.images.formats import (
    EXTENSIONS,
    HEAD_BYTES,
    identify,
    is_read,
    unsupported,
    with_article,
)
from i2ii_spool.jobs.folder import open_regular

# Diffusion models cut a picture into patches. Beyond this aspect ratio one side would have none.
MAX_ASPECT = 16
MIN_SIDE = 8

# A decoded picture can take a hundred times the memory of its file: decode at most two at a time.
_decoding = threading.Semaphore(2)
DECODING_SECONDS = 60
# The decoder of a stranger's picture gets no token, and no module of the working directory.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PYTHONHOME")
PACKAGES = os.pathsep.join(
    dict.fromkeys(str(Path(str(package.__file__)).parents[1]) for package in (i2ii_spool, PIL))
)


@dataclass(frozen=True)
class Header:
    """What the header of a picture says."""

    extension: str
    """Its file extension in a job folder: `png`, `jpg`..."""
    width: int
    """In pixels, like `height`."""
    height: int


@dataclass(frozen=True)
class Opened:
    """A picture whose header has been checked, and of which no pixel has been decoded."""

    name: str
    """Of its format (`formats.EXTENSIONS`)."""
    image: ImageFile.ImageFile
    parts: Parts | None
    """None for WebP and GIF. Of the others `image` shows the pixels alone."""


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
    name, parts = _take_apart(file, max_pixels, field)
    if parts is not None and parts.is_whole:
        return Header(EXTENSIONS[name], parts.width, parts.height)
    return Header(EXTENSIONS[name], *_decode_in_sandbox(file, name, max_pixels, field))


def open_image(file: BufferedReader, max_pixels: int, field: str) -> Opened:
    """Open a picture and check its header. Raises the errors of `inspect`."""
    name, parts = _take_apart(file, max_pixels, field)
    if name == "JPEG" and parts is not None and not parts.is_whole:
        _decode_in_sandbox(file, name, max_pixels, field)  # libjpeg itself only warns
    with decoder_errors(name, field):
        image = open_decoder(file, name, parts.pieces if parts else None)
    _check_sides(*image.size, max_pixels, field)
    return Opened(name, image, parts)


@contextmanager
def decoder_errors(name: str, field: str) -> Iterator[None]:
    """Raise `UnsupportedPicture` for every error of a decoder; let errors of the disk through.

    Decoders raise OSError, SyntaxError, ValueError, struct.error and others.
    """
    try:
        yield
    except I2iiError:
        raise
    except NotRead as error:
        raise _not_read(name, field, error) from None
    except UnidentifiedImageError:
        raise _unidentified(name, field) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the disk: the OSError of a decoder has no number
        raise _damaged(field, error) from error


def _take_apart(file: BufferedReader, max_pixels: int, field: str) -> tuple[str, Parts | None]:
    """Return the format and the parts, whose sides are checked."""
    head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
    if not head:
        raise UnsupportedPicture(f"{field} is empty; send the picture's bytes", field=field)
    name = identify(head)
    if name is None or not is_read(name):
        raise unsupported(name, field)
    with decoder_errors(name, field):
        parts = walk(file, name)
    if parts is not None and parts.width:
        _check_sides(parts.width, parts.height, max_pixels, field)
    return name, parts


def _decode_in_sandbox(
    file: BufferedReader, name: str, max_pixels: int, field: str
) -> tuple[int, int]:
    """Have the picture decoded by a process with limits on memory and time (`sandbox`).

    The formats that come here must be read to their end before their header is complete. Returns
    width and height.
    """
    command = [sys.executable, "-P", "-m", sandbox.__name__, str(max_pixels), name]
    kept = {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ}
    with _decoding:
        file.seek(0)
        try:
            ran = subprocess.run(
                command,
                stdin=file,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=DECODING_SECONDS,
                cwd="/",
                env={**kept, "PYTHONPATH": PACKAGES},
            )
        except subprocess.TimeoutExpired:
            raise UnsupportedPicture(
                f"{field} takes too long to decode: save it again", field=field
            ) from None
    if ran.returncode == sandbox.UNKNOWN:
        raise _unidentified(name, field)
    with decoder_errors(name, field):  # a decoder that has been taken over prints anything
        width, height = map(int, ran.stdout.split() or (0, 0))
    if ran.stdout:
        _check_sides(width, height, max_pixels, field)
    if ran.returncode == sandbox.NOT_READ:
        raise _not_read(name, field, _last_line(ran.stderr))
    if ran.returncode < 0:
        raise _damaged(field, f"its decoder died of {signal.Signals(-ran.returncode).name}")
    if ran.returncode != 0:
        raise _damaged(field, _last_line(ran.stderr))
    return width, height


def _unidentified(name: str, field: str) -> UnsupportedPicture:
    return UnsupportedPicture(
        f"{field} begins like {with_article(name)}, but is damaged, or of a kind that is not read "
        "here; send PNG, JPEG or WEBP",
        field=field,
    )


def _not_read(name: str, field: str, what: object) -> UnsupportedPicture:
    return UnsupportedPicture(f"{field} is {with_article(name)} with {what}", field=field)


def _damaged(field: str, reason: object) -> UnsupportedPicture:
    return UnsupportedPicture(f"{field} is truncated or damaged: {reason}", field=field)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


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
