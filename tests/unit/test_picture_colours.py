"""What the numbers of a picture mean: transparency, profiles, code points; and no metadata goes
through."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from i2ii_spool.errors import UnsupportedPicture
from i2ii_spool.images.codec import encode, read
from i2ii_spool.images.probe import inspect
from tests.support.hostile_pictures import chunk
from tests.support.kinds import display_p3, exif
from tests.support.pictures import saved

MANY = 10**6
BROWN, BROWN_OF_P3 = (200, 100, 50), (215, 93, 31)


def plain(*chunks: bytes, colour: tuple[int, ...] = BROWN) -> bytes:
    """A PNG of one colour, with chunks behind its header."""
    whole = saved(Image.new("RGB", (16, 16), colour), "PNG")
    return whole[:33] + b"".join(chunks) + whole[33:]


def first_pixel(path: Path, data: bytes) -> Any:
    path.write_bytes(data)
    inspect(path, max_pixels=MANY)
    return read(path, max_pixels=MANY).getpixel((0, 0))


def iccp(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))


def chrm(*points: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(point * 100_000) for point in points)))


SRGB_POINTS = (0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
P3_POINTS = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
GAMMA = chunk(b"gAMA", struct.pack(">I", 45_455))
LINEAR = chunk(b"gAMA", struct.pack(">I", 100_000))
SRGB = chunk(b"sRGB", b"\0")
STATED = {
    "nothing": ((), BROWN),
    "iCCP": ((iccp(display_p3()),), BROWN_OF_P3),
    "cICP of Display P3": ((chunk(b"cICP", bytes([12, 13, 0, 1])),), BROWN_OF_P3),
    "cICP of sRGB over iCCP": (
        (chunk(b"cICP", bytes([1, 13, 0, 1])), iccp(display_p3())),
        BROWN,
    ),
    "iCCP where cICP says nothing": (
        (chunk(b"cICP", bytes([2, 2, 0, 1])), iccp(display_p3())),
        BROWN_OF_P3,
    ),
    "iCCP over sRGB": ((iccp(display_p3()), SRGB), BROWN_OF_P3),
    "sRGB over gAMA": ((SRGB, LINEAR), BROWN),
    "gAMA and cHRM of sRGB": ((GAMMA, chrm(*SRGB_POINTS)), BROWN),
    "gAMA and cHRM of P3": ((GAMMA, chrm(*P3_POINTS)), (216, 93, 24)),
    "linear gAMA": ((LINEAR,), (229, 168, 122)),
    "gAMA of nothing": ((chunk(b"gAMA", bytes(4)),), BROWN),
    "cHRM of nothing": ((LINEAR, chunk(b"cHRM", bytes(32))), BROWN),
}


@pytest.mark.parametrize("stated", STATED)
def test_png_states_its_colours(tmp_path: Path, stated: str) -> None:
    chunks, expected = STATED[stated]
    assert first_pixel(tmp_path / "a.png", plain(*chunks)) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("stated", [LINEAR, chunk(b"cICP", bytes([1, 8, 0, 1]))])
@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_png_states_its_shades(tmp_path: Path, mode: str, stated: bytes) -> None:
    whole = saved(Image.new("L", (16, 16), 128).convert(mode, dither=Image.Dither.NONE), "PNG")
    pixel = first_pixel(tmp_path / "a.png", whole[:33] + stated + whole[33:])
    assert pixel[:3] == ((255, 255, 255) if mode == "1" else (188, 188, 188))


@pytest.mark.parametrize(
    ("primaries", "transfer", "expected"),
    [(1, 13, BROWN), (2, 2, BROWN), (12, 13, BROWN_OF_P3), (1, 8, (229, 168, 122))],
)
def test_avif_states_its_colours_by_code_points(
    tmp_path: Path, primaries: int, transfer: int, expected: tuple[int, ...]
) -> None:
    data = _avif(primaries, transfer)
    assert first_pixel(tmp_path / "a.avif", data) == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("transfer", [16, 18])
@pytest.mark.parametrize("kind", ["PNG", "AVIF"])
def test_hdr_is_refused_instead_of_washed_out(tmp_path: Path, kind: str, transfer: int) -> None:
    cicp = chunk(b"cICP", bytes([9, transfer, 0, 1]))
    (tmp_path / "a").write_bytes(plain(cicp) if kind == "PNG" else _avif(9, transfer))
    with pytest.raises(UnsupportedPicture, match=r"HDR colours \((PQ|HLG)\); export it"):
        inspect(tmp_path / "a", max_pixels=MANY)


def _avif(primaries: int, transfer: int) -> bytes:
    whole = saved(Image.new("RGB", (64, 48), BROWN), "AVIF", quality=100, subsampling="4:4:4")
    at = whole.index(b"nclx") + 4
    return whole[:at] + struct.pack(">HH", primaries, transfer) + whole[at + 4 :]


# --- profiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2 * 10**6, 4 * 2**20])
def test_large_profile_is_applied(tmp_path: Path, size: int) -> None:
    profile = display_p3().ljust(size, b"\0")
    profile = struct.pack(">I", size) + profile[4:]
    data = plain(iccp(profile))
    assert first_pixel(tmp_path / "a.png", data) == pytest.approx(BROWN_OF_P3, abs=2)


def test_profile_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(plain(iccp(display_p3() + bytes(2**22))))
    with pytest.raises(UnsupportedPicture, match="more than 4194304 bytes; remove it"):
        inspect(tmp_path / "a.png", max_pixels=MANY)


def test_parts_of_a_profile_may_come_in_any_order(tmp_path: Path) -> None:
    profile = display_p3()
    whole = saved(Image.new("RGB", (16, 16), BROWN), "JPEG", quality=100, subsampling=0)
    parts = [profile[:100], profile[100:300], profile[300:]]
    segments = [
        b"\xff\xe2"
        + struct.pack(">H", 16 + len(part))
        + b"ICC_PROFILE\0"
        + bytes([number, 3])
        + part
        for number, part in enumerate(parts, 1)
    ]
    for order in ((0, 1, 2), (2, 0, 1)):
        data = whole[:2] + b"".join(segments[at] for at in order) + whole[2:]
        assert first_pixel(tmp_path / "a", data) == pytest.approx(BROWN_OF_P3, abs=3)
    data = whole[:2] + segments[0] + segments[2] + whole[2:]  # one is missing
    assert first_pixel(tmp_path / "a", data) == pytest.approx(BROWN, abs=3)


# --- transparency ---------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [b"", display_p3()], ids=["", "profiled"])
def test_one_colour_is_transparent_beside_a_profile(tmp_path: Path, profile: bytes) -> None:
    key = chunk(b"tRNS", struct.pack(">3H", *BROWN))
    chunks = [iccp(profile)] if profile else []
    assert first_pixel(tmp_path / "a.png", plain(*chunks, key))[3] == 0
    assert first_pixel(tmp_path / "a.png", plain(*chunks, key, colour=(200, 100, 51)))[3] == 255


@pytest.mark.parametrize("length", [1, 5])
def test_transparency_that_does_not_fit_is_passed_over(tmp_path: Path, length: int) -> None:
    assert first_pixel(tmp_path / "a.png", plain(chunk(b"tRNS", bytes(length)))) == BROWN


# --- samples of 32 bits ---------------------------------------------------------------------------


def test_floats_from_0_to_1_are_grey(tmp_path: Path) -> None:
    data = saved(Image.new("F", (16, 16), 0.5), "TIFF")
    assert first_pixel(tmp_path / "a.tif", data) == (128, 128, 128)


@pytest.mark.parametrize(("mode", "value"), [("F", 1.5), ("F", -0.1), ("I", 1000)])
def test_samples_without_a_known_white_are_refused(tmp_path: Path, mode: str, value: float) -> None:
    (tmp_path / "a.tif").write_bytes(saved(Image.new(mode, (16, 16), value), "TIFF"))
    with pytest.raises(UnsupportedPicture, match="is a TIFF with samples"):
        inspect(tmp_path / "a.tif", max_pixels=MANY)


# --- metadata -------------------------------------------------------------------------------------


def _with_secrets(kind: str) -> bytes:
    """A picture that says `secret` wherever its format can."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "secret")
    text.add_itxt("XML:com.adobe.xmp", "<secret/>")
    position = exif(1, (0x010E, 2, b"secr"))
    options: dict[str, Any] = {
        "PNG": {"pnginfo": text, "exif": position},
        "JPEG": {"comment": b"secret", "exif": b"Exif\0\0" + position, "xmp": b"<secret/>"},
        "WEBP": {"exif": position, "xmp": b"<secret/>"},
        "GIF": {"comment": b"secret"},
        "TIFF": {"description": "secret"},
        "AVIF": {"exif": b"Exif\0\0" + position, "xmp": b"<secret/>"},
    }[kind]
    if kind not in ("GIF",):
        options["icc_profile"] = display_p3()
    return saved(Image.new("RGB", (32, 32), BROWN), kind, **options)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_no_metadata_reaches_a_result(tmp_path: Path, kind: str, output_format: str) -> None:
    data = _with_secrets(kind)
    assert b"secr" in data
    (tmp_path / "a").write_bytes(data)
    result = encode(read(tmp_path / "a", max_pixels=MANY), output_format)
    assert b"secr" not in result
    with Image.open(io.BytesIO(result)) as image:
        assert not {"icc_profile", "exif", "xmp", "comment"} & {*image.info}


def test_what_an_engine_leaves_in_a_picture_is_not_written() -> None:
    image = Image.new("RGB", (16, 16), BROWN)
    image.info = {"comment": b"secret", "icc_profile": display_p3(), "transparency": BROWN}
    for output_format in ("png", "jpeg", "webp"):
        with Image.open(io.BytesIO(encode(image, output_format))) as result:
            assert not {"icc_profile", "comment", "transparency"} & {*result.info}
