"""Walk over the boxes of an AVIF or HEIC: what its colours are, and where its EXIF is.

ISO/IEC 14496-12 (boxes), 23008-12 (HEIF). Its size is left to the decoder.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from i2ii_spool.images.cicp import check_sdr, coded_profile
from i2ii_spool.images.excerpt import Damaged, Parts, Piece
from i2ii_spool.images.source import Source

_MAX_META = 2**20
_MAX_BOXES = 10_000


class _Box(NamedTuple):
    kind: bytes
    at: int
    """Where its data begins, in the file or in the data of the box above."""
    end: int


def walk(source: Source) -> Parts:
    """Return the parts of an AVIF or HEIC, without its EXIF.

    Such a file states its orientation in a property of its own (`irot`, `imir`), which decoders
    apply; that of the EXIF does not count. Raises `Damaged`, `NotRead`.
    """
    size = source.size
    try:
        at, meta = _meta(source, size)
        boxes = {box.kind: box for box in _boxes(meta, 4, len(meta))}
        primaries, transfer = _colours(meta, boxes)
        names = [at + name for name in _exif_names(meta, boxes)]
    except (struct.error, IndexError, KeyError) as error:
        raise Damaged(f"its boxes are damaged ({error})") from error
    check_sdr(transfer)
    return Parts(
        0,
        0,
        _renamed(names, size),
        is_whole=False,
        profile=coded_profile(primaries, transfer),
    )


def _meta(source: Source, size: int) -> tuple[int, bytes]:
    """Return where the data of the box `meta` begins, and the data; nothing if there is none."""
    at = 0
    for _ in range(_MAX_BOXES):
        head = source.read(16, at)
        if len(head) < 8:
            break
        length, kind = struct.unpack_from(">I4s", head)
        start = at + (16 if length == 1 else 8)
        length = {0: size - at, 1: int.from_bytes(head[8:], "big")}.get(length, length)
        if kind == b"meta":
            return start, source.read(min(at + length - start, _MAX_META), start)
        at += max(8, length)
    return 0, b""


def _boxes(data: bytes, at: int, end: int) -> Iterator[_Box]:
    """Yield the boxes in the data of one, from `at` on."""
    while at + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, at)
        length = length or end - at
        yield _Box(kind, at + 8, min(at + length, end))
        at += max(8, length)


def _colours(meta: bytes, boxes: dict[bytes, _Box]) -> tuple[int, int]:
    """Return the code points of the primaries and the transfer of the primary item; else 2, 2."""
    if b"pitm" not in boxes or b"iprp" not in boxes:
        return 2, 2
    at = boxes[b"pitm"].at
    primary = _number(meta, at + 4, 4 if meta[at] else 2)
    inner = [*_boxes(meta, boxes[b"iprp"].at, boxes[b"iprp"].end)]
    container = {box.kind: box for box in inner}[b"ipco"]
    properties = [*_boxes(meta, container.at, container.end)]
    for box in inner:
        if box.kind == b"ipma":
            for index in _associated(meta[box.at : box.end], primary):
                found = properties[index - 1] if 0 < index <= len(properties) else None
                if found and found.kind == b"colr" and meta[found.at :][:4] == b"nclx":
                    return struct.unpack_from(">HH", meta, found.at + 4)
    return 2, 2


def _associated(box: bytes, item: int) -> Iterator[int]:
    """Yield the numbers of the properties of an item, from the data of a box `ipma`."""
    id_size = 4 if box[0] else 2
    index_size = 2 if box[3] & 1 else 1
    top = 1 << (8 * index_size - 1)  # says that the property is essential
    at = 8
    for _ in range(_number(box, 4, 4)):
        found, count = _number(box, at, id_size), _number(box, at + id_size, 1)
        at += id_size + 1
        if found == item:
            yield from (
                _number(box, at + each * index_size, index_size) % top for each in range(count)
            )
        at += count * index_size


def _exif_names(meta: bytes, boxes: dict[bytes, _Box]) -> Iterator[int]:
    """Yield where the name `Exif` stands in the entries of the items."""
    if b"iinf" in boxes:
        box = boxes[b"iinf"]
        for entry in _boxes(meta, box.at + (8 if meta[box.at] else 6), box.end):
            name = entry.at + {2: 8, 3: 10}.get(meta[entry.at], 0)
            if meta[name : name + 4] == b"Exif":
                yield name


def _renamed(names: list[int], size: int) -> list[Piece]:
    """Return the file with items of EXIF as items of a kind that no decoder looks at."""
    pieces: list[Piece] = []
    at = 0
    for name in names:
        pieces += [(at, name - at), b"skip"]
        at = name + 4
    return [*pieces, (at, max(0, size - at))]


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at : at + size], "big")
