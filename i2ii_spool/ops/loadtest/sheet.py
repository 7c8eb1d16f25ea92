"""The contact sheet of a load test: small pictures of what was sent and of what came back."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

MAX_RESULTS = 24
SIDE = 288
"""Pixels of the longer side: two for each of the page, as sharp screens show it."""
MAX_BYTES = 32 * 1024
"""Of one picture: all of them, in base64, are at most 1.2 MB of the page."""
QUALITIES = (75, 50, 25, 1)


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of a picture."""

    webp: bytes
    """At most `MAX_BYTES`, with the longer side at most `SIDE` pixels."""
    size: tuple[int, int]
    """The width and height of the whole picture in pixels."""


@dataclass(frozen=True)
class Shot:
    """The result of one job on the contact sheet."""

    job: int
    """Which of the jobs it was, from 0."""
    picture: int
    """Which of the pictures was sent, from 0."""
    seconds: float
    """The latency of the job."""
    thumbnail: Thumbnail


@dataclass(frozen=True)
class ContactSheet:
    """What was sent, and some of what came back."""

    pictures: Sequence[Thumbnail] = ()
    shots: Sequence[Shot] = ()
    """By the job."""


def sampled(jobs: int, pictures: int) -> frozenset[int]:
    """Return which jobs the sheet shows: spread over the run, and each picture as often."""
    rounds = MAX_RESULTS // pictures
    starts = {turn * jobs // rounds // pictures * pictures for turn in range(rounds)}
    return frozenset(start + each for start in starts for each in range(pictures))


def thumbnail(picture: Image.Image) -> Thumbnail:
    """Return a small copy, without the metadata."""
    size = picture.size
    small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    while True:
        for quality in QUALITIES:
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=quality, exif=b"", icc_profile=b"")
            if buffer.tell() <= MAX_BYTES:
                return Thumbnail(buffer.getvalue(), size)
        small = small.resize((max(1, small.width // 2), max(1, small.height // 2)))
