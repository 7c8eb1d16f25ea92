"""Colour spaces that a picture states by numbers: as ICC profiles, made here.

ITU-T H.273 for the code points of PNG `cICP`, AVIF and HEIC `nclx`; ICC.1:2022 for the profiles.
"""

import struct

from i2ii_spool.images.excerpt import NotRead

Matrix = tuple[tuple[float, ...], ...]

_HDR = {16: "PQ", 18: "HLG"}
_D65 = (0.3127, 0.3290)
_PRIMARIES = {  # x and y of white, red, green and blue
    1: (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_CURVES = {4: (2.2,), 5: (2.8,), 8: (1.0,), 13: _SRGB_CURVE}
# Cameras encode with it, and screens show it as sRGB: browsers take it for that.
_CURVES |= dict.fromkeys((1, 6, 14, 15), _SRGB_CURVE)
_SRGB = (_PRIMARIES[1], _SRGB_CURVE)
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD: Matrix = (
    (0.8951, 0.2664, -0.1614),
    (-0.7502, 1.7135, 0.0367),
    (0.0389, -0.0685, 1.0296),
)


def check_sdr(transfer: int) -> None:
    """Raise `NotRead` for HDR, which would come out washed-out."""
    if transfer in _HDR:
        raise NotRead(f"HDR colours ({_HDR[transfer]}); export it in standard range (SDR)")


def is_known(primaries: int, transfer: int) -> bool:
    """Whether the colour space of these code points is known."""
    return primaries in _PRIMARIES and transfer in _CURVES


def coded_profile(primaries: int, transfer: int, *, is_grey: bool = False) -> bytes | None:
    """Return the profile of code points; None for sRGB, and for those that are not known."""
    if not is_known(primaries, transfer):
        return None
    space = (_PRIMARIES[primaries], _CURVES[transfer])
    return None if space == _SRGB else _profile(*space, is_grey=is_grey)


def gamma_profile(gamma: bytes, chromaticities: bytes, *, is_grey: bool) -> bytes | None:
    """Return the profile of the chunks `gAMA` and `cHRM` of a PNG; None for what sRGB has too."""
    exponent = int.from_bytes(gamma, "big") / 100_000
    points = _PRIMARIES[1]
    if len(chromaticities) == 32:
        points = tuple(each / 100_000 for each in struct.unpack(">8I", chromaticities))
    is_srgb = all(abs(a - b) < 0.002 for a, b in zip(points, _PRIMARIES[1], strict=True))
    is_srgb = is_srgb and abs(exponent - 1 / 2.2) < 0.005
    if is_srgb or not 0.01 < exponent < 10:
        return None
    try:
        return _profile(points, (1 / exponent,), is_grey=is_grey)
    except (ZeroDivisionError, struct.error):
        return None  # points that span no colours


def _profile(points: tuple[float, ...], curve: tuple[float, ...], *, is_grey: bool) -> bytes:
    """Return an ICC profile of one curve, and of primaries unless `is_grey` (ICC.1, 8.3 and 10.18).

    `points` are x and y of white, red, green and blue.
    """
    tone = b"para" + struct.pack(">IHH", 0, 0 if len(curve) == 1 else 3, 0) + _fixed(*curve)
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50)}
    if is_grey:
        tags[b"kTRC"] = tone
    else:
        for name, column in zip((b"r", b"g", b"b"), _columns(points), strict=True):
            tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*column)
            tags[name + b"TRC"] = tone
    at, table, data = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        table += struct.pack(">4sII", name, at + len(data), len(value))
        data += value.ljust(-(-len(value) // 4) * 4, b"\0")
    space = b"GRAY" if is_grey else b"RGB "
    header = struct.pack(">I4xI4s4s4s", at + len(data), 0x04400000, b"mntr", space, b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(*_D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def _columns(points: tuple[float, ...]) -> list[tuple[float, ...]]:
    """Return XYZ of red, green and blue, which add up to white, adapted to D50."""
    white, *primaries = (_xyz(*points[at : at + 2]) for at in range(0, 8, 2))
    rows = _transposed(primaries)
    scales = _times(_inverse(rows), white)
    scaled = tuple(tuple(v * s for v, s in zip(row, scales, strict=True)) for row in rows)
    return [_adapted(column, white) for column in _transposed(scaled)]


def _fixed(*values: float) -> bytes:
    """s15Fixed16Number (ICC.1, 4.6)."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(x: float, y: float) -> tuple[float, ...]:
    return x / y, 1.0, (1 - x - y) / y


def _adapted(colour: tuple[float, ...], white: tuple[float, ...]) -> tuple[float, ...]:
    """Adapt a colour from its white point to that of ICC profiles, as Bradford does."""
    cone, had, has = (_times(_BRADFORD, each) for each in (colour, white, _D50))
    adapted = tuple(c * b / a for c, a, b in zip(cone, had, has, strict=True))
    return _times(_inverse(_BRADFORD), adapted)


def _times(matrix: Matrix, vector: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def _transposed(rows: "Matrix | list[tuple[float, ...]]") -> Matrix:
    return tuple(zip(*rows, strict=True))


def _inverse(matrix: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    determinant = a * rows[0][0] + b * rows[1][0] + c * rows[2][0]
    return tuple(tuple(value / determinant for value in row) for row in rows)
