"""Files are known by their first bytes, and a refusal names what was found and the cure."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from i2ii_spool.errors import InvalidRequest, UnsupportedPicture
from i2ii_spool.images import formats
from i2ii_spool.images.codec import encode, read
from i2ii_spool.images.formats import HEAD_BYTES, check_encodable, identify, is_read, unsupported
from i2ii_spool.images.probe import inspect
from tests.support.kinds import tiff
from tests.support.pictures import gradient, saved

MANY = 10**8
HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_format_that_is_read_is_known(name: str) -> None:
    assert identify(saved(gradient(), name)[:HEAD_BYTES]) == name
    assert is_read(name)


FOUND = {
    saved(gradient(), "BMP"): "is a BMP picture, which is not read here",
    saved(gradient(), "ICO"): "is an ICO picture, which is not read here",
    saved(gradient(), "PDF"): "is a PDF document",
    saved(gradient(), "JPEG2000"): "is a JPEG 2000 picture, which is not read here",
    b"\0\0\0\x0cJXL \r\n\x87\n": "is a JPEG XL picture, which is not read here",
    b"8BPS\0\1": "is a PSD picture, which is not read here",
    b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='a'/>": "is an SVG picture, which is not read",
    b"\n<!DOCTYPE html><title>404</title>": "is HTML text, not a picture (is it an error page?)",
    b'{"error": "not found"}': "is JSON text, not a picture",
    b"iVBORw0KGgoAAAANSUhEUg": "is a picture as base64 text; decode it first",
    b"hello": "is plain text, not a picture",
    b"The wide river": "is plain text, not a picture",
    b"P1 is the first": "is plain text, not a picture",
    b"PK\3\4": "is an archive; take the picture out of it",
    b"\0\0\0\x14ftypqt  ": "is a QuickTime film",
    b"\0\0\0\x14ftypisom": "is an MP4 film",
    b"\0\0\0\x14ftypcrx ": "is a camera raw picture, which is not read here; develop it",
    b"II*\0\x10\0\0\0CR\2\0": "is a camera raw picture, which is not read here; develop it",
    b"\0\x05\x16\x07\0\2\0\0Mac OS X": "is an AppleDouble file of macOS, which holds no picture",
    b"\x93\xfa\x96\x7b": "is not a picture of a known format",
}


@pytest.mark.parametrize("data", FOUND, ids=FOUND.values())
def test_refusal_names_what_was_found_and_the_cure(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UnsupportedPicture) as refused:
        inspect(tmp_path / "a.png", max_pixels=MANY)
    assert f"image {FOUND[data]}" in refused.value.message
    assert "send " in refused.value.message
    assert refused.value.field == "image"


def test_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UnsupportedPicture, match="image is empty"):
        inspect(tmp_path / "a.png", max_pixels=MANY)


@pytest.mark.parametrize("at", [8, 4096], ids=["at its beginning", "behind much else"])
def test_raw_data_of_a_camera_is_no_tiff(tmp_path: Path, at: int) -> None:
    """Its first picture is a thumbnail, which would be edited instead of the photograph."""
    photo = bytearray(tiff("RGB", 8, b"", 1))
    (start,) = struct.unpack_from("<I", photo, 4)
    height = photo.index(struct.pack("<HHI", 278, 4, 1), start)
    photo[height : height + 12] = struct.pack("<HHII", 0xC612, 4, 1, 1)  # DNGVersion
    if at != 8:
        photo += bytes(at)
    else:
        directory = bytes(photo[start:])
        photo = bytearray(b"II*\0" + struct.pack("<I", 8) + directory)
    (tmp_path / "a.tif").write_bytes(photo)
    with pytest.raises(UnsupportedPicture, match=r"camera|DNG"):
        inspect(tmp_path / "a.tif", max_pixels=MANY)


def test_heic_is_named_with_its_cure_where_it_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(formats.EXTENSIONS, "HEIC", raising=False)
    assert not is_read(identify(HEIC))
    message = unsupported(identify(HEIC), "image").message
    assert "is a HEIC picture" in message
    assert "convert it to JPEG, or ask the operator to install i2ii[heic]" in message


def test_everything_but_heic_is_read_without_the_extra(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(HEIC)
    program = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pathlib import Path\n"
        "from i2ii_spool.images.formats import EXTENSIONS\n"
        "from i2ii_spool.images.probe import inspect\n"
        "assert 'HEIC' not in EXTENSIONS, EXTENSIONS\n"
        "inspect(Path(sys.argv[1]), max_pixels=1)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.heic")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "install i2ii[heic]" in ran.stderr


@pytest.mark.skipif(not is_read("HEIC"), reason="the extra heic is not installed")
def test_heic_is_read(tmp_path: Path) -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    (tmp_path / "a.heic").write_bytes(saved(Image.new("RGB", (64, 48), (200, 100, 50)), "HEIF"))
    assert inspect(tmp_path / "a.heic", max_pixels=MANY).extension == "heic"
    image = read(tmp_path / "a.heic", max_pixels=MANY)
    assert image.getpixel((9, 9)) == pytest.approx((200, 100, 50), abs=3)
    whole = (tmp_path / "a.heic").read_bytes()
    (tmp_path / "a.heic").write_bytes(whole[:-20])
    with pytest.raises(UnsupportedPicture):
        inspect(tmp_path / "a.heic", max_pixels=MANY)


@pytest.mark.parametrize(("output_format", "limit"), [("webp", 16_383), ("jpeg", 65_500)])
def test_side_that_a_format_cannot_have_is_refused_with_the_cure(
    output_format: str, limit: int
) -> None:
    check_encodable(limit, 8, output_format)
    check_encodable(8, 10**6, "png")
    with pytest.raises(InvalidRequest, match=f"at most {limit} pixels.*ask for png") as refused:
        check_encodable(8, limit + 1, output_format)
    assert refused.value.field == "output_format"
    with pytest.raises(InvalidRequest):
        encode(Image.new("RGB", (8, limit + 1)), output_format)
