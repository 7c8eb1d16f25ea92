"""Every kind of picture is read as an independent reader reads it (libvips)."""

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from i2ii_spool.images.codec import read
from i2ii_spool.images.formats import is_read
from i2ii_spool.images.kinds import KINDS, Kind
from i2ii_spool.images.probe import inspect
from tests.support.kinds import HEIGHT, WIDTH, make

MANY = 10**6


class Sample(NamedTuple):
    """A picture of a kind."""

    kind: Kind
    bits: int
    profile: str
    transparent: bool
    orientation: int

    def __str__(self) -> str:
        words = [self.kind.format, self.kind.colours, str(self.bits), self.profile]
        words += [self.kind.transparency if self.transparent else "", str(self.orientation)]
        return "-".join(word.replace(" ", "_").strip("`") for word in words if word)

    @property
    def file_name(self) -> str:
        return str(self).replace(",", "")


def _samples() -> Iterator[Sample]:
    for kind in KINDS:
        is_optional = bool(kind.transparency) and kind.transparency != "alpha"
        clear = [False, True] if is_optional else [bool(kind.transparency)]
        profiles = ["", *kind.profiles]
        yield from itertools.starmap(
            Sample, itertools.product([kind], kind.bits, profiles, clear, (1, 6))
        )


SAMPLES = [sample for sample in _samples() if is_read(sample.kind.format)]
VIPS = shutil.which("vips")


def tolerance(sample: Sample) -> int:
    """How far a value may be from the other reader's."""
    if sample.profile == "CMYK":
        return 10  # tables are interpolated
    if sample.profile == "grey" and sample.bits == 16:
        return 6  # ours is reduced to 8 bits first, and dark values are far apart
    if sample.kind.format in ("AVIF", "HEIC"):
        return 8 if sample.profile else 4
    return 3 if sample.kind.format == "JPEG" else 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the samples, and of what libvips makes of them: `<name>.png`."""
    folder = tmp_path_factory.mktemp("kinds")
    for sample in SAMPLES:
        data = make(
            sample.kind,
            sample.bits,
            profile=sample.profile,
            transparent=sample.transparent,
            orientation=sample.orientation,
        )
        (folder / sample.file_name).write_bytes(data)
    if VIPS is not None:
        plain = [sample.file_name for sample in SAMPLES if not sample.profile]
        profiled = [each.file_name for each in SAMPLES if each.profile in ("RGB", "grey")]
        inks = [sample.file_name for sample in SAMPLES if sample.profile == "CMYK"]
        intent = ["--intent", "perceptual"]
        thumbnail = ["vipsthumbnail", "--size", "1000x1000>", "-o", "%s.png"]
        commands = [[*thumbnail, *plain]]
        commands += [[*thumbnail, "--export-profile", "srgb", *intent, *profiled]]
        for name in inks:  # vipsthumbnail passes over a profile of CMYK
            turned = [f"{name}[autorotate]", f"{name}.png"]
            commands += [[VIPS, "icc_transform", *turned, "srgb", "--embedded", *intent]]
        for command in commands:
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.xdist_group("picture kinds")
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_kind_is_read_as_an_independent_reader_reads_it(pictures: Path, sample: Sample) -> None:
    path = pictures / sample.file_name
    inspect(path, max_pixels=MANY)
    image = read(path, max_pixels=MANY)
    assert image.mode == ("RGBA" if sample.transparent else "RGB")
    is_turned = sample.orientation == 6 and sample.kind.format != "GIF"
    assert image.size == ((HEIGHT, WIDTH) if is_turned else (WIDTH, HEIGHT))
    if VIPS is None:
        pytest.skip("vips is missing; install libvips-tools")
    if sample.kind.colours == "CMYK" and not sample.profile:
        pytest.skip("what inks look like without a profile is a guess")
    with Image.open(pictures / f"{sample.file_name}.png") as other:
        assert image.size == other.size
        expected = other.convert(image.mode)
    for at in itertools.product(range(image.width), range(image.height)):
        ours, theirs = image.getpixel(at), expected.getpixel(at)
        assert isinstance(ours, tuple)
        assert isinstance(theirs, tuple)
        compared = slice(3, 4) if theirs[3:] == (0,) else slice(4)  # what is clear has no colour
        assert ours[compared] == pytest.approx(theirs[compared], abs=tolerance(sample)), at
