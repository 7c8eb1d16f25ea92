"""Make a picture of each kind that `i2ii_spool.images.kinds` lists: small, and with raw writers
where Pillow cannot write it.

    make(kind, bits, profile="RGB", transparent=True, orientation=6)
"""

import random
import struct
import zlib
from collections.abc import Sequence

from PIL import Image

from i2ii_spool.images.cicp import coded_profile
from i2ii_spool.images.kinds import Kind
from tests.support.hostile_pictures import PNG_HEAD, chunk
from tests.support.pictures import saved

WIDTH, HEIGHT = 24, 16
_PNG_TYPES = {"grey": 0, "RGB": 2, "palette": 3, "grey and alpha": 4, "RGB and alpha": 6}
_CHANNELS = {"grey": 1, "RGB": 3, "palette": 1, "CMYK": 4, "grey, 0 is white": 1}
_CHANNELS |= {"grey and alpha": 2, "RGB and alpha": 4}
_PHOTOMETRIC = {"grey, 0 is white": 0, "grey": 1, "RGB": 2, "palette": 3, "CMYK": 5}
_MODES = {"grey": "L", "RGB": "RGB", "CMYK": "CMYK", "RGB and alpha": "RGBA", "palette": "P"}
SHORT, LONG, UNDEFINED = 3, 4, 7

Entry = tuple[int, int, bytes]
"""Of EXIF or a TIFF: its tag, its type, and a value, or an offset, of up to four bytes."""


def make(kind: Kind, bits: int, *, profile: str, transparent: bool, orientation: int) -> bytes:
    """A file of `kind`; `profile` is the colour space of its ICC profile, or nothing."""
    icc = PROFILES[profile]() if profile else b""
    if kind.format == "PNG":
        return png(kind.colours, bits, icc, orientation, transparent=transparent)
    if kind.format == "TIFF":
        return tiff(kind.colours, bits, icc, orientation)
    options: dict[str, object] = {"icc_profile": icc} if icc else {}
    if kind.format != "GIF":
        options |= {
            "exif": b"Exif\0\0" + exif(orientation),
            "quality": 95 if kind.format == "JPEG" else 100,
        }
    if kind.format in ("WEBP", "HEIC"):
        options["lossless"] = True
    if kind.format == "AVIF":
        options["subsampling"] = "4:4:4"
    if transparent and kind.format == "GIF":
        options["transparency"] = 0
    if kind.format == "HEIC":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    name = "HEIF" if kind.format == "HEIC" else kind.format
    return saved(_image(kind.colours), name, **options)


def packed_entry(entry: Entry, order: str) -> bytes:
    """An entry of a directory."""
    tag, kind, data = entry
    return struct.pack(f"{order}HHI", tag, kind, 1) + data.ljust(4, b"\0")


def exif(orientation: int, *more: Entry, order: str = ">") -> bytes:
    """EXIF with an orientation and more entries."""
    entries = [(0x0112, SHORT, struct.pack(f"{order}HH", orientation, 0)), *more]
    packed = b"".join(packed_entry(entry, order) for entry in sorted(entries))
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}IH", 8, len(entries)) + packed + bytes(4)


def png(colours: str, bits: int, icc: bytes, orientation: int, *, transparent: bool) -> bytes:
    """A PNG. Where one colour is transparent, that of its first pixel, the second is the next."""
    colour_type, channels = _PNG_TYPES[colours], _CHANNELS[colours]
    rows = _rows(colours, bits)
    if colours in ("grey", "RGB"):
        rows[0][channels : 2 * channels] = [sample ^ 1 for sample in rows[0][:channels]]
    data = b"".join(b"\0" + _packed(row, bits, ">") for row in rows)
    return (
        PNG_HEAD
        + chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, 0))
        + (chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc)) if icc else b"")
        + (chunk(b"PLTE", bytes(_palette())[: 3 << bits]) if colours == "palette" else b"")
        + (chunk(b"tRNS", _trns(colours, rows)) if transparent and "alpha" not in colours else b"")
        + chunk(b"eXIf", exif(orientation))
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def tiff(
    colours: str,
    bits: int,
    icc: bytes = b"",
    orientation: int = 1,
    order: str = "<",
    more: Sequence[Entry] = (),
) -> bytes:
    """A TIFF of one strip, and `more` entries in its directory."""
    channels = _CHANNELS[colours]
    data = b"".join(_packed(row, bits, order) for row in _rows(colours, bits))
    photometric = _PHOTOMETRIC[colours.removesuffix(" and alpha")]
    tags = {256: (LONG, [WIDTH]), 257: (LONG, [HEIGHT]), 258: (SHORT, [bits] * channels)}
    tags |= {259: (SHORT, [1]), 262: (SHORT, [photometric]), 273: (LONG, [8])}
    tags |= {274: (SHORT, [orientation]), 277: (SHORT, [channels]), 278: (LONG, [HEIGHT])}
    tags |= {279: (LONG, [len(data)])}
    if colours == "palette":
        palette = [value * 257 for value in _palette()]
        tags[320] = (SHORT, palette[::3] + palette[1::3] + palette[2::3])
    if colours.endswith("alpha"):
        tags[338] = (SHORT, [2])
    if icc:
        tags[34_675] = (UNDEFINED, list(icc))
    extra = [entry for entry in more if entry[0] not in tags]
    start, count = 8 + len(data), len(tags) + len(extra)
    tail, values = start + 2 + 12 * count + 4, b""
    entries = {entry[0]: packed_entry(entry, order) for entry in extra}
    for tag, (kind, numbers) in sorted(tags.items()):
        code = {SHORT: "H", LONG: "I", UNDEFINED: "B"}[kind]
        packed = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(packed) > 4:
            where = struct.pack(f"{order}I", tail + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        else:
            where = packed.ljust(4, b"\0")
        entries[tag] = struct.pack(f"{order}HHI", tag, kind, len(numbers)) + where
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    directory = b"".join(entry for _, entry in sorted(entries.items()))
    return head + data + struct.pack(f"{order}H", count) + directory + bytes(4) + values


def _rows(colours: str, bits: int) -> list[list[int]]:
    """The samples: red grows to the right, green downwards, blue shrinks with both."""
    top = (1 << bits) - 1
    across, down = WIDTH - 1, HEIGHT - 1
    rows = []
    for y in range(HEIGHT):
        row = []
        for x in range(WIDTH):
            ramps = [x * top // across, y * top // down, top - (x + y) * top // (across + down)]
            alpha = top * (y % 4) // 3
            if colours.startswith("grey") or colours == "palette":
                row += [(x + y) * top // (across + down), *([alpha] if "alpha" in colours else [])]
            else:
                row += [*ramps, *([alpha] if "alpha" in colours else [])]
                row += [top // 4] if colours == "CMYK" else []
        rows.append(row)
    return rows


def _packed(row: list[int], bits: int, order: str) -> bytes:
    if bits == 16:
        return struct.pack(f"{order}{len(row)}H", *row)
    together = 0
    for sample in row:
        together = together << bits | sample
    unused = -len(row) * bits % 8
    return (together << unused).to_bytes((len(row) * bits + 7) // 8, "big")


def _palette() -> list[int]:
    return [value for index in range(256) for value in (index, 255 - index, index * 7 % 256)]


def _trns(colours: str, rows: list[list[int]]) -> bytes:
    if colours == "palette":
        return bytes([0, 128])
    return struct.pack(f">{_CHANNELS[colours]}H", *rows[0][: _CHANNELS[colours]])


def _image(colours: str) -> Image.Image:
    data = bytes(sample for row in _rows(colours, 8) for sample in row)
    image = Image.frombytes(_MODES[colours], (WIDTH, HEIGHT), data)
    if colours == "palette":
        image.putpalette(_palette())
    return image


# --- profiles -------------------------------------------------------------------------------------


def display_p3() -> bytes:
    """The profile of Display P3."""
    profile = coded_profile(12, 13)
    assert profile is not None
    return profile


def _profile(device: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile (ICC.1:2001-04, 6.1)."""
    at, table, data = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        table += struct.pack(">4sII", name, at + len(data), len(value))
        data += value.ljust(-(-len(value) // 4) * 4, b"\0")
    head = struct.pack(">I4xI4s4s4s", at + len(data), 0x02100000, device, space, pcs)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63_190, 65_536, 54_061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def linear_grey() -> bytes:
    """The profile of grey whose numbers are proportional to light."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63_190, 65_536, 54_061)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 256)
    # libpng passes over a profile that takes less than 132 bytes compressed.
    text = b"text\0\0\0\0" + random.Random(1).randbytes(64).hex().encode() + b"\0"
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": white, b"kTRC": curve, b"cprt": text})


def inks() -> bytes:
    """A profile of CMYK of pale inks: the Lab of the 16 corners, all within sRGB."""
    identity = bytes(range(256))
    one, zero = struct.pack(">i", 65_536), bytes(4)
    matrix = b"".join(one if at % 4 == 0 else zero for at in range(9))
    corners = b""
    for corner in range(16):
        cyan, magenta, yellow, black = (corner >> shift & 1 for shift in (3, 2, 1, 0))
        light = 240 - 40 * cyan - 40 * magenta - 10 * yellow - 100 * black
        green_red, blue_yellow = 128 - 10 * cyan + 15 * magenta, 128 - 12 * cyan + 12 * yellow
        corners += bytes([light, green_red, blue_yellow])
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4 + corners + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


PROFILES = {"RGB": display_p3, "grey": linear_grey, "CMYK": inks}
