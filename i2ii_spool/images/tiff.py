"""Walk over the first directory of a TIFF: size, orientation, colour profile.

TIFF 6.0; BigTIFF; ICC.1, annex B.4. Other directories, and metadata, are not handed on: Pillow
fails on an entry of an unusual type, also where no pixel depends on it.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from i2ii_spool.images.excerpt import MAX_PROFILE, Damaged, NotRead, Parts
from i2ii_spool.images.exif import INTEGERS, NORMAL
from i2ii_spool.images.source import Source

_WIDTH, _HEIGHT, _ORIENTATION, _PROFILE = 256, 257, 274, 34_675
_PIXELS = {
    *range(256, 260),  # size, depth, compression
    262,  # what a sample means
    266,  # order of bits
    *(273, 277, 278, 279, 284),  # strips and planes
    *(292, 293),  # options of fax compression
    317,  # predictor
    320,  # palette
    *range(322, 326),  # tiles
    *(332, 334, 338, 339),  # inks, transparency, kind of number
    347,  # tables of JPEG
    *range(512, 522),  # JPEG of the old kind
    *range(529, 533),  # YCbCr
}
"""The entries that pixels depend on."""
_MAX_ENTRIES = 4096

DNG_VERSION, _SUBFILE_TYPE, _COMPRESSION, _SUB_IFDS = 0xC612, 0xFE, 0x103, 0x14A
_RAW_COMPRESSIONS = {32_767, 34_713, 65_535}  # of Sony, Nikon and Pentax


class _Entry(NamedTuple):
    kind: int
    values: int
    value: int
    """The first, or where the values begin."""
    raw: bytes


class _Layout(NamedTuple):
    order: str
    """As `struct` writes it."""
    offset: str
    """An offset in the file, and a count of values."""
    counter: str
    """The number of entries."""


def walk(source: Source) -> Parts:
    """Return the parts of a TIFF, of which only a decoder can tell whether it is whole.

    Raises `Damaged`, `NotRead`.
    """
    layout, at = _header(source)
    entries, end = _entries(source, layout, at)
    if is_camera_raw({tag: entry.value for tag, entry in entries.items()}):
        raise NotRead("the raw data of a camera; develop it and send a JPEG")
    if _WIDTH not in entries or _HEIGHT not in entries:
        raise Damaged("it has no size")
    kept = [entry.raw for tag, entry in sorted(entries.items()) if tag in _PIXELS]
    directory = struct.pack(layout.order + layout.counter, len(kept)) + b"".join(kept)
    size = source.size
    return Parts(
        entries[_WIDTH].value,
        entries[_HEIGHT].value,
        # The offset of the next directory is 0: there is none.
        [(0, at), directory.ljust(end - at, b"\0"), (end, max(0, size - end))],
        is_whole=False,
        orientation=_orientation(entries.get(_ORIENTATION)),
        profile=_profile(source, entries.get(_PROFILE)),
    )


def is_camera_raw(tags: Mapping[int, int]) -> bool:
    """Whether the first directory of a TIFF has the `tags` of a camera's raw data.

    What it shows is a thumbnail. `tags` has the first value of each.
    """
    is_thumbnail = tags.get(_SUBFILE_TYPE) == 1 and _SUB_IFDS in tags
    return DNG_VERSION in tags or is_thumbnail or tags.get(_COMPRESSION) in _RAW_COMPRESSIONS


def _header(source: Source) -> tuple[_Layout, int]:
    """Return the layout, and where the first directory begins."""
    head = source.read(16, 0).ljust(16, b"\0")
    order = "<" if head.startswith(b"II") else ">"
    if struct.unpack_from(f"{order}H", head, 2) == (43,):
        return _Layout(order, "Q", "Q"), struct.unpack_from(f"{order}Q", head, 8)[0]
    return _Layout(order, "I", "H"), struct.unpack_from(f"{order}I", head, 4)[0]


def _entries(source: Source, layout: _Layout, at: int) -> tuple[dict[int, _Entry], int]:
    """Return the entries of a directory, and where it ends, behind the offset of the next."""
    order, offset, counter = layout
    counted = _read(source, struct.calcsize(order + counter), at)
    (count,) = struct.unpack(order + counter, counted)
    if not 0 < count <= _MAX_ENTRIES:
        raise Damaged(f"its directory has {count} entries")
    size = struct.calcsize(f"{order}HH{offset}{offset}")
    start = at + len(counted)
    data = _read(source, count * size, start)
    entries: dict[int, _Entry] = {}
    for here in range(0, len(data), size):
        tag, kind, values = struct.unpack_from(f"{order}HH{offset}", data, here)
        code = INTEGERS.get(kind, offset)
        (value,) = struct.unpack_from(order + code, data, here + size - struct.calcsize(offset))
        entries.setdefault(tag, _Entry(kind, values, value, data[here : here + size]))
    return entries, start + len(data) + struct.calcsize(offset)


def _orientation(entry: _Entry | None) -> int:
    if entry is None or entry.kind not in INTEGERS or not 1 <= entry.value <= 8:
        return NORMAL
    return entry.value


def _profile(source: Source, entry: _Entry | None) -> bytes | None:
    if entry is None or entry.kind not in (1, 7):  # BYTE, UNDEFINED
        return None
    if entry.values > MAX_PROFILE:
        raise NotRead(f"a colour profile of more than {MAX_PROFILE} bytes; remove it")
    return source.read(entry.values, entry.value) or None


def _read(source: Source, size: int, at: int) -> bytes:
    data = source.read(size, at) if at < source.size else b""
    if len(data) < size:
        raise Damaged("it ends before its directory does")
    return data
