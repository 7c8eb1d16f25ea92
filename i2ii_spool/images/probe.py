"""Inspect a picture by its header and its end, before a pixel is decoded."""

import os
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from i2ii_spool.errors import UnsupportedPicture
from i2ii_spool.images.checks import check_sides, decoder_errors
from i2ii_spool.images.decoders import walk
from i2ii_spool.images.formats import EXTENSIONS, HEAD_BYTES, identify, is_read, unsupported
from i2ii_spool.images.mask import check_mask
from i2ii_spool.images.sandbox import pool
from i2ii_spool.jobs.folder import open_regular


class Header(NamedTuple):
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
        header = inspect_quickly(file, max_pixels=max_pixels, field=field)
        return header or inspect_by_decoding(file, max_pixels=max_pixels, field=field)


def inspect_quickly(
    file: BufferedReader, *, max_pixels: int, field: str = "image"
) -> Header | None:
    """Like `inspect`, in bounded time and memory; None if only a decoder can tell whether the
    picture is whole."""
    name = identified(file, field)
    with decoder_errors(name, field):
        parts = walk(file, name)
    if parts is not None and parts.width:
        check_sides(parts.width, parts.height, max_pixels, field)
    if parts is None or not parts.is_whole:
        return None
    return Header(EXTENSIONS[name], parts.width, parts.height)


def inspect_by_decoding(file: BufferedReader, *, max_pixels: int, field: str = "image") -> Header:
    """Like `inspect`, by decoding the whole picture in the sandbox."""
    name = identified(file, field)
    said = pool.judge(file, name=name, max_pixels=max_pixels, field=field)
    check_sides(said.width, said.height, max_pixels, field)
    return Header(EXTENSIONS[name], said.width, said.height)


def inspect_mask(
    file: BufferedReader, picture: BufferedReader, *, max_pixels: int, field: str = "mask"
) -> Header:
    """Return the header of the mask of a picture, both of which are decoded in the sandbox.

    Raises the errors of `inspect`, and `InvalidRequest` for a mask that does not fit.
    """
    name = identified(file, field)
    said = pool.examine(file, name=name, max_pixels=max_pixels, field=field)
    shown = pool.examine(
        picture, name=identified(picture, "image"), max_pixels=max_pixels, field="image"
    )
    sides = (said.width, said.height)
    check_mask(sides, (shown.width, shown.height), said.least_alpha, field)
    return Header(EXTENSIONS[name], *sides)


def identified(file: BufferedReader, field: str) -> str:
    """Return the format of a picture that is read. Raises `UnsupportedPicture`."""
    head = os.pread(file.fileno(), HEAD_BYTES, 0)
    if not head:
        raise UnsupportedPicture(f"{field} is empty; send the picture's bytes", field=field)
    name = identify(head)
    if name is None or not is_read(name):
        raise unsupported(name, field)
    return name
