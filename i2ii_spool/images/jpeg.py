"""Walk over the segments of a JPEG: size, scans, end, EXIF and colour profile.

ITU-T T.81, annex B. What lies behind the end of the picture, such as a film, is not looked at.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from i2ii_spool.images.excerpt import MAX_PROFILE, Damaged, NotRead, Parts, Piece
from i2ii_spool.images.exif import orientation
from i2ii_spool.images.source import Source

MAX_SEGMENTS = 10_000
"""A profile has up to 255 of them, and each scan a few."""
MAX_SCANS = 100
"""A progressive JPEG has about ten scans. It can have hundreds of thousands, and decoding each
costs as much as decoding the picture."""

_BLOCK = 2**20
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_END, _SOS = 0xD9, 0xDA
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_PIXELS = {*_FRAMES, 0xC4, 0xCC, 0xDB, 0xDC, 0xDD}  # SOFn, DHT, DAC, DQT, DNL, DRI
_WITHOUT_DATA = {0x01, 0xD8}  # TEM, SOI
# Restart markers are among the coded pixels.
_MARKER = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")


class _Segment(NamedTuple):
    marker: int
    at: int
    """Where its data begins in the file."""
    size: int
    """Bytes of its data."""


class _Header:
    """What comes before the coded pixels."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._seen: set[int] = set()
        self._profile: dict[int, bytes] = {}
        self.pieces: list[Piece] = [_SOI]
        self.frame = b""
        self.exif = b""

    def add(self, segment: _Segment) -> None:
        """Keep what pixels depend on, the first EXIF, and the profile."""
        marker, at, size = segment
        if marker in _FRAMES and not self.frame:
            self.frame = bytes([marker]) + self._source.read(size, at)
        is_named = marker in (_APP0, _APP1, _APP2, _APP14)
        head = self._source.read(min(size, 32), at) if is_named else b""
        if marker in _PIXELS or self._says_what_colours_are(marker, head):
            self.pieces.append((at - 4, 4 + size))
        elif marker == _APP1 and head.startswith(b"Exif\0\0") and not self.exif:
            self.exif = self._source.read(size, at)
        elif marker == _APP2 and head.startswith(b"ICC_PROFILE\0") and len(head) > 14:
            self._add_profile(head[12], self._source.read(size, at)[13:])

    def _says_what_colours_are(self, marker: int, head: bytes) -> bool:
        start = {_APP0: b"JFIF\0", _APP14: b"Adobe"}.get(marker)
        if start is None or not head.startswith(start) or marker in self._seen:
            return False
        self._seen.add(marker)
        return True

    def _add_profile(self, number: int, data: bytes) -> None:
        self._profile.setdefault(number, data)
        if sum(map(len, self._profile.values())) > MAX_PROFILE:
            raise NotRead(f"a colour profile of more than {MAX_PROFILE} bytes; remove it")

    def whole_profile(self) -> bytes | None:
        """Return the profile, whose parts may stand in any order; None if one is missing."""
        parts = [self._profile.get(number, b"") for number in range(1, len(self._profile) + 1)]
        if not parts or any(part[:1] != bytes([len(parts)]) for part in parts):
            return None
        return b"".join(part[1:] for part in parts)


def walk(source: Source) -> Parts:
    """Return the parts of a JPEG. Looks among the coded pixels only if it must.

    Raises `Damaged`, `NotRead`.
    """
    header, segments = _Header(source), _segments(source)
    for segment in segments:
        if segment.marker in (_SOS, _END):
            break
        header.add(segment)
    else:
        raise Damaged("it ends before its pixels")
    if len(header.frame) < 10 or segment.marker == _END:
        raise Damaged("it has no pixels")
    kind, depth, height, width, components = struct.unpack_from(">BBHHB", header.frame)
    if depth != 8 or components not in (1, 3, 4):
        raise NotRead(f"{components} components of {depth} bits; save it as RGB of 8 bits")
    if kind not in (_BASELINE, _EXTENDED, _PROGRESSIVE):
        raise NotRead(f"a frame SOF{kind - 0xC0}, which few programs read; save it again")
    end = _end(source, segment, segments, header.frame)
    coded = segment.at - 4
    return Parts(
        width,
        height,
        [
            *header.pieces,
            (coded, (end or _last_byte(source)) - coded),
            *([] if end else [_EOI]),
        ],
        is_whole=end is not None,
        orientation=orientation(header.exif),
        profile=header.whole_profile(),
    )


def continuations(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Yield the pieces of a JPEG that lacks its end, each time with other data before an end.

    libjpeg takes missing pixels for grey and only warns. Pixels that are all there are the same
    whatever follows them; missing ones are what follows.
    """
    from random import Random  # costs the start of each sandbox, and few need it

    for seed in range(3):
        noise = Random(seed).randbytes(2**14).replace(b"\xff", b"")
        # A decoder that waits for a restart marker passes over all else, but takes pixels for lost
        # where it finds one of the next two. Of three beginnings one is neither.
        runs = [
            noise[at * 64 :][:64] + bytes([0xFF, 0xD0 + (at + 3 * seed) % 8]) for at in range(64)
        ]
        yield [*pieces[:-1], noise, *runs, _EOI]


def _segments(source: Source) -> Iterator[_Segment]:
    """Yield the segments, the end of the picture the last; the file may end before that."""
    at = len(_SOI)
    for _ in range(MAX_SEGMENTS):
        found = _next_marker(source, at)
        if found is None:
            return
        marker, at = found
        if marker == _END:
            yield _Segment(marker, at, 0)
            return
        if marker not in _WITHOUT_DATA:
            size = int.from_bytes(source.read(2, at), "big") - 2
            if size < 0:
                raise Damaged(f"there is no segment at byte {at}")
            yield _Segment(marker, at + 2, size)
            at += 2 + size
    raise NotRead(f"more than {MAX_SEGMENTS} segments; save it again")


def _next_marker(source: Source, at: int) -> tuple[int, int] | None:
    """Return the next marker from `at` on, past garbage and coded pixels, and where it ends."""
    size = 256
    while block := source.read(size, at):
        if found := _MARKER.search(block):
            return block[found.end() - 1], at + found.end()
        at += max(1, len(block) - 1)  # a marker may lie across the edge
        size = min(4 * size, _BLOCK)
    return None


def _end(source: Source, scan: _Segment, segments: Iterator[_Segment], frame: bytes) -> int | None:
    """Return where the picture ends in the file, behind its last marker; None if that is missing.

    Raises `NotRead` for too many scans, and `Damaged` if its last are missing.
    """
    size = source.size
    headers = [_scan_header(source, scan)]
    has_one_scan = frame[0] in (_BASELINE, _EXTENDED) and headers[0][0] == frame[6]
    if has_one_scan and source.read(2, size - 2) == _EOI:
        return size
    for segment in segments:
        if segment.marker == _END:
            return segment.at
        if segment.marker == _SOS:
            headers.append(_scan_header(source, segment))
        if len(headers) > MAX_SCANS:
            raise NotRead(f"more than {MAX_SCANS} scans; save it again")
    if not _are_all_scans(headers, frame):
        raise Damaged("its last scans are missing")
    return None


def _scan_header(source: Source, segment: _Segment) -> bytes:
    header = source.read(segment.size, segment.at)
    if not header or len(header) < 4 + 2 * header[0]:
        raise Damaged("it ends within the header of a scan")
    return header


def _are_all_scans(headers: list[bytes], frame: bytes) -> bool:
    """Whether every coefficient of every component is there to its last bit."""
    known: set[tuple[int, int]] = set()
    for header in headers:
        names = header[1 : 1 + 2 * header[0] : 2]
        first, last, precision = header[1 + 2 * header[0] :][:3]
        if precision & 0x0F == 0:
            known.update((name, index) for name in names for index in range(first, last + 1))
    return all((name, index) in known for name in frame[7::3] for index in range(64))


def _last_byte(source: Source) -> int:
    """Return where the data ends, without the first half of a marker."""
    size = source.size
    tail = source.read(256, max(0, size - 256))
    return size - (len(tail) - len(tail.rstrip(b"\xff")))
