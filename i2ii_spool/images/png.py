"""Walk over the chunks of a PNG: checksums, size, and what its numbers mean.

W3C, Portable Network Graphics (Third Edition).
"""

import os
import struct
import zlib
from typing import BinaryIO

from i2ii_spool.images.cicp import check_sdr, coded_profile, gamma_profile, is_known
from i2ii_spool.images.excerpt import MAX_PARTS, MAX_PROFILE, Damaged, NotRead, Parts, Piece
from i2ii_spool.images.exif import orientation

_BLOCK = 2**20
_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"}
"""The chunks that pixels depend on."""
_READ = {
    b"IHDR": 13,
    b"tRNS": 256,
    b"iCCP": MAX_PROFILE + 2**16,
    b"eXIf": 2**16,
    b"cICP": 4,
    b"sRGB": 1,
    b"gAMA": 4,
    b"cHRM": 32,
}
"""The chunks that are read, and how many bytes of each."""
GREY, RGB, PALETTE, GREY_AND_ALPHA, RGB_AND_ALPHA = 0, 2, 3, 4, 6
"""The colour types."""
_DEPTHS = {GREY: (1, 2, 4, 8, 16), PALETTE: (1, 2, 4, 8)}
_DEPTHS |= dict.fromkeys((RGB, GREY_AND_ALPHA, RGB_AND_ALPHA), (8, 16))


def walk(file: BinaryIO) -> Parts:
    """Return the parts of a PNG. Reads the file once, a block at a time.

    An ancillary chunk whose checksum is wrong counts as absent. Raises `Damaged`, `NotRead`.
    """
    size = file.seek(0, os.SEEK_END)
    at = file.seek(8)
    pieces: list[Piece] = [(0, 8)]
    chunks: dict[bytes, bytes] = {}
    for _ in range(MAX_PARTS):
        if at + 8 > size:
            return _parts(chunks, pieces, is_whole=False)
        length, kind = struct.unpack(">I4s", file.read(8))
        _check_kind(kind, at)
        data, is_right = _data(file, kind, length)
        if kind in _PIXELS and not is_right:
            raise Damaged(f"the checksum of its {kind.decode()} chunk is wrong")
        if kind in _PIXELS and kind != b"tRNS":  # Pillow compares its 16 bits with 8 of a pixel
            _append(pieces, at, 12 + length)
        if is_right:
            chunks.setdefault(kind, data)
        at += 12 + length
        if kind == b"IEND":
            return _parts(chunks, pieces, is_whole=at <= size)
    raise NotRead(f"more than {MAX_PARTS} chunks; save it again")


def _check_kind(kind: bytes, at: int) -> None:
    if not kind.isalpha():
        raise Damaged(f"there is no chunk at byte {at}")
    if kind[:1].isupper() and kind not in _PIXELS:
        raise NotRead(f"a {kind.decode()} chunk, which is not of the standard; save it again")


def _data(file: BinaryIO, kind: bytes, length: int) -> tuple[bytes, bool]:
    """Return what is read of a chunk, and whether its checksum is right. Leaves the file behind it.

    That of a chunk in which the file ends is not wrong; that of one that is not read is not looked
    at.
    """
    if kind not in _PIXELS and kind not in _READ:
        file.seek(length + 4, os.SEEK_CUR)
        return b"", True
    data = file.read(min(length, _READ.get(kind, 0)))
    checksum, left = zlib.crc32(data, zlib.crc32(kind)), length - len(data)
    while left and (block := file.read(min(left, _BLOCK))):
        checksum = zlib.crc32(block, checksum)
        left -= len(block)
    stored = file.read(4)
    return data, len(stored) < 4 or stored == checksum.to_bytes(4, "big")


def _append(pieces: list[Piece], at: int, length: int) -> None:
    """Add a piece of the file, as one with the last where that ends here."""
    last = pieces[-1]
    if isinstance(last, tuple) and sum(last) == at:
        pieces[-1] = (last[0], last[1] + length)
    else:
        pieces.append((at, length))


def _parts(chunks: dict[bytes, bytes], pieces: list[Piece], *, is_whole: bool) -> Parts:
    header = chunks.get(b"IHDR", b"")
    if len(header) < 13 or b"IDAT" not in chunks:
        raise Damaged("it has no pixels")
    if header[9] == PALETTE and b"PLTE" not in chunks:
        raise Damaged("it has no palette")
    width, height, depth, colour_type = struct.unpack_from(">IIBB", header)
    if depth not in _DEPTHS.get(colour_type, ()):
        raise Damaged(f"there is no colour type {colour_type} of {depth} bits")
    return Parts(
        width,
        height,
        pieces,
        is_whole,
        orientation=orientation(chunks.get(b"eXIf", b"")),
        profile=_profile(chunks, is_grey=colour_type in (GREY, GREY_AND_ALPHA)),
        depth=depth,
        colour_type=colour_type,
        transparency=chunks.get(b"tRNS"),
    )


def _profile(chunks: dict[bytes, bytes], *, is_grey: bool) -> bytes | None:
    """Return the profile of the colours: of the four ways to state one, the first that is there."""
    primaries, transfer = chunks.get(b"cICP", b"").ljust(2, b"\2")[:2]  # 2: not specified
    check_sdr(transfer)
    if is_known(primaries, transfer):
        return coded_profile(primaries, transfer, is_grey=is_grey)
    if profile := _inflated(chunks.get(b"iCCP", b"")):
        return profile
    if b"sRGB" in chunks or b"gAMA" not in chunks:
        return None
    return gamma_profile(chunks[b"gAMA"], chunks.get(b"cHRM", b""), is_grey=is_grey)


def _inflated(chunk: bytes) -> bytes | None:
    """Return the profile of an `iCCP` chunk; None if it cannot be inflated."""
    compressed = chunk.partition(b"\0")[2][1:]
    try:
        profile = zlib.decompressobj().decompress(compressed, MAX_PROFILE + 1)
    except zlib.error:
        return None
    if len(profile) > MAX_PROFILE:
        raise NotRead(f"a colour profile of more than {MAX_PROFILE} bytes; remove it")
    return profile or None
