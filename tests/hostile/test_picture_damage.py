"""Pictures that are damaged, or carry metadata that is: the right picture or a clear error."""

import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from i2ii_spool.errors import I2iiError, UnsupportedPicture
from i2ii_spool.images.codec import read
from i2ii_spool.images.probe import inspect
from tests.support.hostile_pictures import PNG_HEAD, chunk, jpeg_of_ten_thousand_scans
from tests.support.kinds import HEIGHT, WIDTH, display_p3, exif, packed_entry, tiff
from tests.support.pictures import encoded, gradient, saved

MANY = 10**6
TURNED = 6
LYING = gradient((32, 48))
UPRIGHT = LYING.transpose(Image.Transpose.ROTATE_270)

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


# --- metadata of any kind -------------------------------------------------------------------------

entries = st.tuples(
    st.one_of(
        st.sampled_from([0x010E, 0x011A, 0x02BC, 0x8769, 0x8773, 0x8825, 0xA005, 1, 6]),
        st.integers(0, 65_535),
    ).filter(lambda tag: tag != 0x0112),
    st.one_of(st.integers(0, 18), st.integers(0, 65_535)),
    st.binary(max_size=4),
)


def with_exif(kind: str, data: bytes) -> bytes:
    """A picture that lies on its side, with this EXIF."""
    if kind == "PNG":
        whole = saved(LYING, "PNG")
        return whole[:33] + chunk(b"eXIf", data) + whole[33:]
    prefix = b"Exif\0\0" if kind == "JPEG" else b""
    return saved(LYING, kind, exif=prefix + data, quality=95)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@same_folder
@given(entries=st.lists(entries, max_size=3), order=st.sampled_from("<>"))
def test_orientation_counts_beside_any_other_entry(
    tmp_path: Path, kind: str, entries: list[tuple[int, int, bytes]], order: str
) -> None:
    """Pillow writes EXIF anew to turn a picture, and cannot write all that cameras do."""
    (tmp_path / "a").write_bytes(with_exif(kind, exif(TURNED, *entries, order=order)))
    image = read(tmp_path / "a", max_pixels=MANY)
    assert image.size == UPRIGHT.size
    assert image.getpixel((1, 1)) == pytest.approx(UPRIGHT.getpixel((1, 1)), abs=24)


@same_folder
@given(entries=st.lists(entries, max_size=3), order=st.sampled_from("<>"))
def test_tiff_is_read_beside_any_other_entry(
    tmp_path: Path, entries: list[tuple[int, int, bytes]], order: str
) -> None:
    pixels_depend_on = {*range(254, 260), 262, 266, *range(273, 294), 317, *range(320, 348)}
    pixels_depend_on |= {*range(512, 534), 0x014A, 0xC612}
    others = {tag: (tag, *rest) for tag, *rest in entries if tag not in pixels_depend_on}
    data = tiff("RGB", 8, orientation=TURNED, order=order, more=list(others.values()))
    (tmp_path / "a").write_bytes(data)
    assert read(tmp_path / "a", max_pixels=MANY).size == (HEIGHT, WIDTH)


def test_avif_is_read_beside_exif_that_cannot_be_written_back(tmp_path: Path) -> None:
    original = Image.Exif()
    original[0x0112], original[0x011A] = TURNED, 72.0
    data = saved(LYING, "AVIF", exif=original)
    entry = data.index(b"\x01\x1a\0\5")  # XResolution, RATIONAL
    (tmp_path / "a").write_bytes(data[: entry + 3] + b"\2" + data[entry + 4 :])  # ASCII
    inspect(tmp_path / "a", max_pixels=MANY)
    assert read(tmp_path / "a", max_pixels=MANY).size == UPRIGHT.size


INTEGERS = {
    "BYTE": (1, b"\6", True),
    "SHORT": (3, b"\0\6", True),
    "LONG": (4, b"\0\0\0\6", True),
    "ASCII": (2, b"6\0", False),
    "0": (3, b"\0\0", False),
    "9": (3, b"\0\11", False),
    "65535": (3, b"\xff\xff", False),
}


@pytest.mark.parametrize(("kind", "value", "is_turned"), INTEGERS.values(), ids=INTEGERS)
def test_orientation_is_an_integer_from_1_to_8(
    tmp_path: Path, kind: int, value: bytes, is_turned: bool
) -> None:
    head, directory, end = exif(1)[:10], packed_entry((0x0112, kind, value), ">"), bytes(4)
    data = head + directory + end
    (tmp_path / "a").write_bytes(with_exif("PNG", data))
    size = read(tmp_path / "a", max_pixels=MANY).size
    assert size == (UPRIGHT.size if is_turned else LYING.size)


# --- checksums of a PNG ---------------------------------------------------------------------------


def png_chunks() -> list[bytes]:
    """A PNG with a chunk of each kind, in pieces."""
    body = saved(gradient().quantize(16), "PNG", transparency=3, icc_profile=display_p3())
    pieces, at = [], len(PNG_HEAD)
    while at < len(body):
        end = at + 12 + int.from_bytes(body[at : at + 4], "big")
        pieces.append(body[at:end])
        at = end
    more = [chunk(b"tEXt", b"a\0b"), chunk(b"tIME", bytes(7)), chunk(b"eXIf", exif(TURNED))]
    return [pieces[0], *more, *pieces[1:-1], chunk(b"tEXt", b"c\0d"), pieces[-1]]


@pytest.mark.parametrize("at", range(len(png_chunks())))
def test_wrong_checksum_counts_where_pixels_depend_on_the_chunk(tmp_path: Path, at: int) -> None:
    pieces = png_chunks()
    kind = pieces[at][4:8]
    pieces[at] = pieces[at][:-1] + bytes([pieces[at][-1] ^ 1])
    (tmp_path / "a").write_bytes(PNG_HEAD + b"".join(pieces))
    if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
        with pytest.raises(UnsupportedPicture, match=f"the checksum of its {kind.decode()} chunk"):
            inspect(tmp_path / "a", max_pixels=MANY)
    else:
        inspect(tmp_path / "a", max_pixels=MANY)
        image = read(tmp_path / "a", max_pixels=MANY)
        assert image.size == ((64, 48) if kind == b"eXIf" else (48, 64))


def test_palette_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        PNG_HEAD + b"".join(each for each in png_chunks() if each[4:8] != b"PLTE")
    )
    with pytest.raises(UnsupportedPicture, match="it has no palette"):
        inspect(tmp_path / "a", max_pixels=MANY)


def test_chunk_of_a_dialect_is_named(tmp_path: Path) -> None:
    """Xcode writes it, and a PNG that only Apple's programs read."""
    whole = saved(gradient(), "PNG")
    (tmp_path / "a").write_bytes(whole[:8] + chunk(b"CgBI", bytes(4)) + whole[8:])
    with pytest.raises(UnsupportedPicture, match="a CgBI chunk"):
        inspect(tmp_path / "a", max_pixels=MANY)


# --- cut, or with more behind ---------------------------------------------------------------------

CUT = {
    "PNG": encoded(".png"),
    "grey PNG": saved(gradient().convert("L"), "PNG"),
    "baseline": saved(gradient(), "JPEG"),
    "progressive": saved(gradient(), "JPEG", progressive=True),
    "grey with restarts": saved(gradient().convert("L"), "JPEG", restart_marker_blocks=2),
    "progressive with restarts": encoded(".jpg"),
}


def decoded(data: bytes) -> bytes:
    """The pixels of a file, grey or black where they are missing."""
    end = b"\xff\xd9" if data.startswith(b"\xff\xd8") else b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        with Image.open(io.BytesIO(data.rstrip(b"\xff") + end)) as image:
            return image.tobytes()


def cuts(whole: bytes) -> Iterator[int]:
    """Lengths near the end, and some others."""
    yield from (len(whole) - missing for missing in (1, 2, 3, 8, 11, 12, 13, 64))
    yield from range(len(whole) // 7, len(whole) - 64, len(whole) // 7)


@pytest.mark.parametrize("kind", CUT)
def test_cut_picture_is_read_if_and_only_if_all_its_pixels_are_there(
    tmp_path: Path, kind: str
) -> None:
    whole = CUT[kind]
    tail = 2 if whole.startswith(b"\xff\xd8") else 12  # the marker, or the chunk, of its end
    for length in cuts(whole):
        (tmp_path / "a").write_bytes(whole[:length])
        try:
            inspect(tmp_path / "a", max_pixels=MANY)
        except UnsupportedPicture:
            assert length < len(whole) - tail, length
        else:
            assert decoded(whole[:length]) == decoded(whole), length
            read(tmp_path / "a", max_pixels=MANY)


@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("behind", [b"PK\3\4", b"\xff\xda\xff" * 200], ids=["archive", "film"])
def test_what_lies_behind_a_picture_is_not_looked_at(
    tmp_path: Path, kind: str, behind: bytes
) -> None:
    (tmp_path / "a").write_bytes(CUT[kind] + behind)
    inspect(tmp_path / "a", max_pixels=MANY)
    assert read(tmp_path / "a", max_pixels=MANY).size == (64, 48)


def test_scans_are_counted_within_the_picture(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(jpeg_of_ten_thousand_scans() + b"a film")
    with pytest.raises(UnsupportedPicture, match="more than 100 scans"):
        inspect(tmp_path / "a", max_pixels=10**8)


def test_garbage_between_segments_is_passed_over(tmp_path: Path) -> None:
    whole = saved(gradient(), "JPEG")
    for garbage in (b"\xff" * 300, b"\0" * 300, b"\xff\xff\0\xff\0"):
        (tmp_path / "a").write_bytes(whole[:20] + garbage + whole[20:])
        inspect(tmp_path / "a", max_pixels=MANY)
        assert read(tmp_path / "a", max_pixels=MANY).size == (64, 48)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "AVIF", "GIF", "WEBP"])
@same_folder
@given(data=st.data())
def test_any_damage_gives_a_picture_or_an_error_of_ours(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    spoilt = bytearray(saved(gradient(), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(spoilt) - 1))
        spoilt[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=8))
    (tmp_path / "a").write_bytes(spoilt)
    with suppress(I2iiError):
        read(tmp_path / "a", max_pixels=MANY)
    if kind in ("PNG", "JPEG"):  # judged without a decoder
        with suppress(I2iiError):
            inspect(tmp_path / "a", max_pixels=MANY)
