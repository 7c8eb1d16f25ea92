"""What of a file a decoder gets: pieces of it, without the metadata that no pixel depends on."""

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Piece = tuple[int, int] | bytes
"""Where it begins in the file and how many bytes it has; or the bytes themselves."""

MAX_PROFILE = 2**22
"""Bytes of a colour profile. The largest in use, of printers, have two million."""
MAX_PARTS = 100_000
"""Chunks of a PNG. Each costs a microsecond or two."""


class Damaged(ValueError):
    """The picture is truncated or damaged. The message says where."""


class NotRead(ValueError):
    """The picture uses something that is not read here. The message completes "image has..."."""


class Parts(NamedTuple):
    """What a walk over a picture has found, without decoding it."""

    width: int
    """In pixels, as stored, like `height`; 0 where only a decoder can tell."""
    height: int
    pieces: Sequence[Piece]
    """All that the pixels depend on. A decoder needs nothing else."""
    is_whole: bool
    """Whether its end is there; else only a decoder can tell whether all pixels are."""
    orientation: int = 1
    """Of its EXIF (`exif.orientation`), or of a TIFF itself."""
    profile: bytes | None = None
    """The ICC profile of its numbers; None for sRGB."""
    depth: int = 8
    """Bits of a sample."""
    colour_type: int | None = None
    """Of a PNG (IHDR)."""
    transparency: bytes | None = None
    """The `tRNS` chunk of a PNG."""


class Excerpt(io.RawIOBase):
    """Pieces of a file, one behind another, as a file. The file must stay open."""

    def __init__(self, descriptor: int, pieces: Sequence[Piece]) -> None:
        self._descriptor = descriptor
        self._pieces = pieces
        sizes = (len(piece) if isinstance(piece, bytes) else piece[1] for piece in pieces)
        self._starts = list(accumulate(sizes, initial=0))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        index = bisect_right(self._starts, self._at) - 1
        if index >= len(self._pieces):
            return 0
        skip = self._at - self._starts[index]
        wanted = min(len(view), self._starts[index + 1] - self._at)
        piece = self._pieces[index]
        if isinstance(piece, bytes):
            data = piece[skip : skip + wanted]
        else:
            data = os.pread(self._descriptor, wanted, piece[0] + skip)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
