"""The size of a WebP. Its decoder would make room for the whole picture before it says the size.

Google, WebP Container Specification; RFC 6386 (VP8), section 9.1; RFC 9649 (VP8L), section 3.4.
"""

from i2ii_spool.images.excerpt import Damaged, Parts
from i2ii_spool.images.source import Source

_HEAD_BYTES = 30
_SIDE = 2**14 - 1
"""The bits of a side in VP8 and VP8L."""


def walk(source: Source) -> Parts:
    """Return the size that the first chunk states. Raises `Damaged`."""
    head = source.read(_HEAD_BYTES, 0)
    if len(head) < _HEAD_BYTES:
        raise Damaged("it ends in its header")
    match head[12:16]:
        case b"VP8X":
            width, height = _number(head[24:27]) + 1, _number(head[27:30]) + 1
        case b"VP8L":
            sides = _number(head[21:25])
            width, height = (sides & _SIDE) + 1, (sides >> 14 & _SIDE) + 1
        case b"VP8 ":
            width, height = _number(head[26:28]) & _SIDE, _number(head[28:30]) & _SIDE
        case _:
            raise Damaged("its first chunk is no picture")
    size = source.size
    return Parts(width, height, pieces=[(0, size)], is_whole=False)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
