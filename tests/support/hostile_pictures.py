"""Hostile pictures: small files that decode to something large, slow or strange.

`REFUSED` has the status and a word of the error for each that the server refuses. `TAKEN` lists
those that it accepts, `METADATA` those of them whose metadata is what is large.
"""

import random
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from tests.support.pictures import gradient, saved

Bomb = Callable[[], bytes]
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes, rows: bytes = b"") -> bytes:
    """A PNG of one bit a pixel."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        PNG_HEAD
        + chunk(b"IHDR", header)
        + b"".join(more)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def png_of_60_000_squared() -> bytes:
    return png(60_000, 60_000)


def png_of_all_the_pixels_there_may_be() -> bytes:
    return png(8000, 8000, rows=bytes(1001 * 8000))


def png_with_a_text_of_100_megabytes() -> bytes:
    return png(
        64, 64, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**8), 9)), rows=bytes(9 * 64)
    )


def png_with_a_profile_of_100_megabytes() -> bytes:
    return png(
        64, 64, chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(10**8), 9)), rows=bytes(9 * 64)
    )


def png_with_64_texts_of_a_megabyte() -> bytes:
    """A file of 64 KiB."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**20 - 1), 9))
    return png(64, 64, *[text] * 64, rows=bytes(9 * 64))


def png_with_45_megabytes_of_exif() -> bytes:
    return png(64, 64, chunk(b"eXIf", b"MM\0*" + bytes(45 * 10**6)), rows=bytes(9 * 64))


def _jpeg_with_700(marker: int, head: bytes) -> bytes:
    small = saved(gradient(), "JPEG")
    segment = bytes([0xFF, marker]) + struct.pack(">H", 65_535) + head.ljust(65_533, b"\0")
    return small[:2] + segment * 700 + small[2:]


def jpeg_with_700_exif_segments() -> bytes:
    return _jpeg_with_700(0xE1, b"Exif\0\0MM\0*")


def jpeg_with_700_profile_segments() -> bytes:
    return _jpeg_with_700(0xE2, b"ICC_PROFILE\0\1\1")


def png_of_a_million_chunks() -> bytes:
    return png(64, 64, chunk(b"teXt", b"") * 10**6, rows=bytes(9 * 64))


def jpeg_of_a_million_segments() -> bytes:
    small = saved(gradient(), "JPEG", progressive=True)
    return small[:-2] + b"\xff\xe5\0\2" * 10**6 + small[-2:]


def avif_of_many_property_tables() -> bytes:
    """Each claims four billion entries, and the first has those of all others."""
    table = _box(b"ipma", bytes(4) + b"\xff" * 4 + bytes(2))
    properties = _box(b"iprp", _box(b"ipco", b"") + table * 50_000)
    primary = _box(b"pitm", bytes(5) + b"\1")
    small = saved(gradient(), "AVIF")
    return small[: small.index(b"meta") - 4] + _box(b"meta", bytes(4) + primary + properties)


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(data), kind) + data


def png_that_ends_early_within() -> bytes:
    """All its chunks are whole, and half its rows are missing."""
    return png(64, 64, rows=bytes(9 * 32))


def webp_of_16_383_squared() -> bytes:
    """A header that says so, over the data of a small one."""
    small = bytearray(saved(gradient(), "WEBP", lossless=True))
    at = small.index(b"VP8L") + 9
    sides = 16_382 | 16_382 << 14
    small[at : at + 4] = struct.pack(
        "<I", sides | struct.unpack("<I", small[at : at + 4])[0] & 0xF0000000
    )
    return bytes(small)


def webp_of_all_the_pixels_there_may_be() -> bytes:
    return saved(Image.new("RGBA", (8000, 8000), (1, 2, 3, 4)), "WEBP", lossless=True, method=0)


def gif_of_65_535_squared() -> bytes:
    small = bytearray(saved(gradient(), "GIF"))
    small[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(small)


def gif_of_ten_thousand_frames() -> bytes:
    small = saved(Image.new("L", (8, 8)), "GIF")
    frame = small[small.index(b",") : -1]
    return small[:-1] + frame * 10_000 + b";"


def tiff(**tags: int) -> bytes:
    """A TIFF of 8-bit grey whose tags say what they like."""
    said = {256: 64, 257: 64, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 64, 279: 4096}
    said |= {int(name[1:]): value for name, value in tags.items()}
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(said.items())
    )
    return (
        b"II*\0"
        + struct.pack("<I", 8 + 4096)
        + bytes(4096)
        + struct.pack("<H", len(said))
        + entries
        + bytes(4)
    )


def tiff_of_65_535_squared() -> bytes:
    return tiff(t256=65_535, t257=65_535)


def tiff_whose_strip_lies_elsewhere() -> bytes:
    return tiff(t273=2**31, t279=2**31)


def tiff_whose_strip_is_all_there_is() -> bytes:
    return tiff(t279=2**32 - 1)


def tiff_that_points_to_itself() -> bytes:
    """Its second frame is its first."""
    whole = tiff()
    return whole[:-4] + struct.pack("<I", 8 + 4096)


def jpeg_of_65_500_squared() -> bytes:
    small = bytearray(saved(gradient(), "JPEG"))
    at = small.index(b"\xff\xc0") + 5
    small[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(small)


def jpeg_of_ten_thousand_scans() -> bytes:
    small = saved(gradient((2000, 2000)), "JPEG", progressive=True, quality=10)
    last = small[small.rindex(b"\xff\xda") : -2]
    return small[:-2] + last * 10_000 + b"\xff\xd9"


def avif_of_a_million_squared() -> bytes:
    small = saved(gradient(), "AVIF")
    at = small.index(b"ispe") + 8
    return small[:at] + struct.pack(">II", 10**6, 10**6) + small[at + 8 :]


def icon() -> bytes:
    return saved(gradient(), "ICO")


def page_that_is_no_picture() -> bytes:
    return b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"


def noise() -> bytes:
    return random.Random(1).randbytes(4096)


def nothing() -> bytes:
    return b""


REFUSED: dict[Bomb, tuple[int, str]] = {
    png_of_60_000_squared: (413, "60000x60000 pixels"),
    png_with_a_profile_of_100_megabytes: (400, "a colour profile of more than 4194304 bytes"),
    webp_of_16_383_squared: (413, "16383x16383 pixels"),
    gif_of_65_535_squared: (413, "65535x65535 pixels"),
    tiff_of_65_535_squared: (413, "65535x65535 pixels"),
    tiff_whose_strip_lies_elsewhere: (400, "damaged"),
    jpeg_of_65_500_squared: (413, "65500x65500 pixels"),
    jpeg_of_ten_thousand_scans: (400, "scans"),
    png_of_a_million_chunks: (400, "more than 100000 chunks"),
    jpeg_of_a_million_segments: (400, "more than 10000 segments"),
    avif_of_many_property_tables: (400, "damaged"),
    avif_of_a_million_squared: (400, "send PNG, JPEG"),
    icon: (400, "ICO picture, which is not read here; send PNG, JPEG"),
    page_that_is_no_picture: (400, "SVG picture, which is not read here; send PNG, JPEG"),
    noise: (400, "send PNG, JPEG"),
    nothing: (400, "empty"),
}

METADATA: list[Bomb] = [
    png_with_a_text_of_100_megabytes,
    png_with_64_texts_of_a_megabyte,
    png_with_45_megabytes_of_exif,
    jpeg_with_700_exif_segments,
    jpeg_with_700_profile_segments,
]
TAKEN: list[Bomb] = [
    png_of_all_the_pixels_there_may_be,
    webp_of_all_the_pixels_there_may_be,
    gif_of_ten_thousand_frames,
    tiff_whose_strip_is_all_there_is,
    tiff_that_points_to_itself,
    png_that_ends_early_within,
    *METADATA,
]
