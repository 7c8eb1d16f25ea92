"""Read the orientation from EXIF.

CIPA DC-008 (Exif), 4.6.4. Only this entry is looked at: the others may be of any type or damaged.
"""

import struct

NORMAL = 1
_ORIENTATION = 0x0112
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""BYTE, SHORT, LONG and the signed ones, as `struct` writes them."""


def orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8; 1 where there is none that is valid.

    `exif` is a TIFF header and its directories, with or without `Exif\\0\\0` before them. An
    orientation that XMP states is not taken: browsers do not take it either.
    """
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return NORMAL
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    if start + 2 > len(data):
        return NORMAL
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, at)
        if tag == _ORIENTATION and kind in INTEGERS and values > 0:
            (value,) = struct.unpack_from(f"{order}{INTEGERS[kind]}", data, at + 8)
            return value if 1 <= value <= 8 else NORMAL
    return NORMAL
