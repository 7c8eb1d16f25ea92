"""Pictures are judged before they are decoded, read upright, and written as asked."""

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from i2ii_spool.errors import InvalidRequest, TooLarge, UnsupportedPicture
from i2ii_spool.images.codec import encode, read
from i2ii_spool.images.probe import inspect
from tests.support.pictures import gradient, make_picture

FORMATS = ["png", "jpg", "webp", "gif", "tif", "avif"]


@pytest.mark.parametrize("extension", FORMATS)
def test_every_format_is_read(tmp_path: Path, extension: str) -> None:
    path = make_picture(tmp_path / f"picture.{extension}", (40, 30))
    header = inspect(path, max_pixels=10**6)
    assert (header.extension, header.width, header.height) == (extension, 40, 30)
    assert read(path, max_pixels=10**6).size == (40, 30)
    assert read(path, max_pixels=10**6).mode == "RGB"


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif"])
def test_a_truncated_picture_is_refused(tmp_path: Path, extension: str) -> None:
    path = make_picture(tmp_path / f"picture.{extension}", (300, 200))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UnsupportedPicture, match="damaged"):
        inspect(path, max_pixels=10**6)


def test_jpeg_with_trailing_data_is_read_and_a_truncated_is_refused(tmp_path: Path) -> None:
    path = make_picture(tmp_path / "phone.jpg", (300, 200))
    whole = path.read_bytes()
    path.write_bytes(whole + b"a film")
    inspect(path, max_pixels=10**6)
    path.write_bytes(whole[:-300] + b"a film")
    with pytest.raises(UnsupportedPicture, match="damaged"):
        inspect(path, max_pixels=10**6)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(TooLarge, match="60000x60000 pixels, 3600 million; at most 64 million"):
        inspect(bomb, max_pixels=64 * 10**6)


@pytest.mark.parametrize("size", [(4, 100), (1000, 20)])
def test_sides_that_no_engine_can_use_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match="at least 8, and the longer at most 16 times"):
        inspect(make_picture(tmp_path / "thin.png", size), max_pixels=10**6)


def test_what_is_no_picture_is_refused_by_the_name_of_its_field(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_text("hello")
    with pytest.raises(UnsupportedPicture, match="send PNG, JPEG, WEBP") as refused:
        inspect(path, max_pixels=10**6)
    assert refused.value.field == "image"


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture.png"
    if kind == "symlink":
        path.symlink_to(make_picture(tmp_path / "elsewhere.png"))
    else:
        os.mkfifo(path)
    with pytest.raises(InvalidRequest, match="not a regular file"):
        inspect(path, max_pixels=10**6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_upright(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (20, 10), "white")
    upright.paste("red", (0, 0, 10, 5))  # the upper left quarter
    lay = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # the transposition that each orientation undoes
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(lay[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "lying.png", exif=exif)
    assert read(tmp_path / "lying.png", max_pixels=10**8).tobytes() == upright.tobytes()


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    Image.new("I;16", (10, 10), 0x8000).save(tmp_path / "grey.png")
    assert read(tmp_path / "grey.png", max_pixels=10**8).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_kept(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (10, 10), (255, 0, 0, 0)).convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    picture.save(tmp_path / "clear.png", **options)
    image = read(tmp_path / "clear.png", max_pixels=10**8)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0))[3] == 0  # type: ignore[index]


def test_colours_become_srgb(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (10, 10), (200, 100, 50)).save(tmp_path / "same.png", icc_profile=lab)
    assert read(tmp_path / "same.png", max_pixels=10**8).getpixel((0, 0)) == pytest.approx(
        (200, 100, 50), abs=2
    )
    Image.new("RGB", (10, 10), (200, 100, 50)).save(tmp_path / "bad.png", icc_profile=b"nonsense")
    assert read(tmp_path / "bad.png", max_pixels=10**8).getpixel((0, 0)) == (200, 100, 50)


@pytest.mark.parametrize(
    ("output_format", "pillow_format"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")]
)
def test_a_result_is_what_was_asked_for(output_format: str, pillow_format: str) -> None:
    with Image.open(
        io.BytesIO(encode(Image.new("RGBA", (10, 10), (0, 0, 0, 0)), output_format))
    ) as image:
        assert image.format == pillow_format
        assert image.convert("RGBA").getpixel((5, 5)) == (
            (255, 255, 255, 255) if output_format == "jpeg" else (0, 0, 0, 0)
        )


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_a_lower_quality_takes_fewer_bytes(output_format: str) -> None:
    noise = Image.effect_noise((64, 64), 60)
    sizes = [len(encode(noise, output_format, quality)) for quality in (0, 50, None, 100)]
    assert sizes == sorted(set(sizes))
    assert len(encode(noise, output_format)) == len(encode(noise, output_format, 95))


@pytest.mark.parametrize("saving", [{}, {"big_tiff": True}], ids=["", "BigTIFF"])
@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_deflate", "jpeg"])
def test_tiff_is_read_however_it_is_compressed(
    tmp_path: Path, compression: str, saving: dict[str, bool]
) -> None:
    path = make_picture(tmp_path / "a.tif", compression=compression, **saving)
    inspect(path, max_pixels=10**6)
    with Image.open(path) as image:
        assert read(path, max_pixels=10**6).tobytes() == image.convert("RGB").tobytes()


def test_of_several_pictures_in_a_jpeg_the_first_is_read(tmp_path: Path) -> None:
    """Phones put a second one behind it: a gain map, or what the other eye sees."""
    second = Image.new("RGB", (32, 24), "red")
    gradient().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    header = inspect(tmp_path / "a.jpg", max_pixels=10**6)
    assert (header.extension, header.width, header.height) == ("jpg", 64, 48)
    assert read(tmp_path / "a.jpg", max_pixels=10**6).size == (64, 48)
