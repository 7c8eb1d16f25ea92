"""Pictures that mean harm, or are merely odd: the right answer or a clear error, and little memory
for either."""

import http.client
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageCms

from i2ii_spool.errors import InvalidRequest, UnsupportedPicture
from i2ii_spool.images import probe
from i2ii_spool.images.codec import read
from i2ii_spool.images.probe import inspect
from tests.support import hostile_pictures as bombs
from tests.support.hostile_pictures import Bomb
from tests.support.http import Answer, post
from tests.support.pictures import gradient, saved
from tests.support.service import Service, get_json

pytestmark = pytest.mark.xdist_group("pictures")  # one service serves them all

FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"]
MANY = 10**8
MEMORY = 200
"""MiB of the server at most, where the largest of these pictures takes a decoder a gigabyte."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A live service; in the end its server has never taken much memory."""
    service = Service(tmp_path_factory.mktemp("live"))
    url = service.serve()
    (server,) = service.processes
    service.work(engine="quick")
    yield url
    assert peak_memory(server.pid) < MEMORY
    service.stop_all()


def peak_memory(pid: int) -> int:
    """The most that a process has had resident, in MiB."""
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) // 1024


def ended(url: str, answer: Answer) -> dict[str, object]:
    """The status of the job that was accepted, once it has ended."""
    assert answer.status == 202, answer
    status: dict[str, object] = get_json(f"{url}/status/{answer.json()['request_id']}?wait=60")
    return status


@pytest.mark.parametrize("bomb", bombs.REFUSED, ids=lambda bomb: bomb.__name__)
def test_bomb_is_refused_by_the_server(url: str, bomb: Bomb) -> None:
    answer = post(url, bomb())
    error = answer.json()["error"]
    assert (answer.status, error["field"]) == (bombs.REFUSED[bomb][0], "image")
    assert bombs.REFUSED[bomb][1] in error["message"]


@pytest.mark.parametrize("bomb", bombs.TAKEN, ids=lambda bomb: bomb.__name__)
def test_odd_picture_is_edited_or_fails_with_the_reason(url: str, bomb: Bomb) -> None:
    end = ended(url, post(url, bomb()))
    error = end.get("error")
    assert end["status"] == "completed" or (
        isinstance(error, dict) and error["code"] == "unsupported_picture"
    )


# --- damaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_no_truncated_picture_is_taken(tmp_path: Path, kind: str) -> None:
    whole = saved(gradient((300, 200)), kind)
    for tenth in range(10):
        (tmp_path / "cut").write_bytes(whole[: len(whole) * tenth // 10 + 1])
        with pytest.raises(UnsupportedPicture):
            inspect(tmp_path / "cut", max_pixels=MANY)


@pytest.mark.parametrize("bomb", bombs.METADATA, ids=lambda bomb: bomb.__name__)
def test_metadata_costs_no_memory(tmp_path: Path, bomb: Bomb) -> None:
    """Many at once would be many times that. A process of its own has no peak of others."""
    (tmp_path / "a").write_bytes(bomb())
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from i2ii_spool.images.probe import inspect\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "inspect(Path(sys.argv[1]), max_pixels=10**6)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 8 * 1024  # KiB


def test_decoder_gets_neither_secrets_nor_modules_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resource.py").write_text("raise SystemExit('run from the working directory')")
    (tmp_path / "a.webp").write_bytes(saved(gradient(), "WEBP"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("I2II_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with mock.patch.object(probe.subprocess, "run", wraps=probe.subprocess.run) as run:
        inspect(tmp_path / "a.webp", max_pixels=MANY)
    assert "I2II_TOKEN" not in run.call_args.kwargs["env"]


@pytest.mark.parametrize(
    ("death", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        (
            "print(64, 48, flush=True); import os; os.kill(os.getpid(), 9)",
            "died of SIGKILL",
        ),
        ("print('64x48')", "damaged"),
        ("import os, sys; os.write(2, b'\\xff'); sys.exit(1)", "damaged"),
        ("import sys; sys.exit('it takes too much memory')", "too much memory"),
        ("while True: pass", "too long"),
    ],
)
def test_crash_of_a_decoder_refuses_only_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str, said: str
) -> None:
    (tmp_path / "deadly.py").write_text(death)
    monkeypatch.setattr(probe, "PACKAGES", str(tmp_path))
    monkeypatch.setattr(probe, "DECODING_SECONDS", 1)
    (tmp_path / "a.webp").write_bytes(saved(gradient(), "WEBP"))
    deadly = ModuleType("deadly")
    deadly.UNKNOWN, deadly.NOT_READ = 2, 3  # type: ignore[attr-defined]
    with mock.patch.object(probe, "sandbox", deadly), pytest.raises(UnsupportedPicture, match=said):
        inspect(tmp_path / "a.webp", max_pixels=MANY)


# --- odd ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = gradient((48, 32))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / "a").write_bytes(
        saved(stored, kind, exif=exif, **({} if kind == "PNG" else {"quality": 95}))
    )
    inspect(tmp_path / "a", max_pixels=MANY)
    image = read(tmp_path / "a", max_pixels=MANY)
    assert image.size == (48, 32)
    corners = [(1, 1), (46, 1), (1, 30), (46, 30)]
    for corner in corners:
        assert image.getpixel(corner) == pytest.approx(upright.getpixel(corner), abs=24)


UNREADABLE = [
    b"Exif\0\0",
    b"Exif\0\0MM\0*\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 60,
]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", UNREADABLE, ids=["empty", "without-entries", "of-nonsense"])
def test_exif_that_cannot_be_read_says_nothing(tmp_path: Path, exif: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(saved(gradient(), "JPEG", exif=exif))
    inspect(tmp_path / "a.jpg", max_pixels=MANY)
    assert read(tmp_path / "a.jpg", max_pixels=MANY).size == (64, 48)


MODES = {
    "CMYK": saved(gradient().convert("CMYK"), "JPEG", quality=95),
    "grey": saved(gradient().convert("L"), "PNG"),
    "bilevel": saved(gradient().convert("1"), "PNG"),
    "palette": saved(gradient().quantize(64), "PNG"),
    "16-bit": saved(Image.new("I;16", (64, 48), 32_768), "PNG"),
    "16-bit TIFF": saved(Image.new("I;16", (64, 48), 32_768), "TIFF"),
    "float TIFF": saved(Image.new("F", (64, 48), 0.5), "TIFF"),
    "LAB TIFF": saved(gradient().convert("LAB"), "TIFF"),
    "animated GIF": saved(
        gradient(), "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48), "red")]
    ),
    "animated PNG": saved(
        gradient(), "PNG", save_all=True, append_images=[Image.new("RGB", (64, 48), "red")]
    ),
    "animated WebP": saved(
        gradient(), "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48), "red")]
    ),
    "two pages": saved(
        gradient(), "TIFF", save_all=True, append_images=[Image.new("RGB", (64, 48), "red")]
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_of_the_first_frame(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a").write_bytes(MODES[mode])
    inspect(tmp_path / "a", max_pixels=MANY)
    image = read(tmp_path / "a", max_pixels=MANY)
    assert (image.mode, image.size) == ("RGB", (64, 48))
    if mode.startswith("animated") or mode == "two pages":
        assert image.getpixel((32, 24)) != (255, 0, 0)


def test_transparency_of_a_palette_is_kept(tmp_path: Path) -> None:
    image = Image.new("P", (64, 48), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((3, 3), 0)
    (tmp_path / "a.png").write_bytes(saved(image, "PNG", transparency=0))
    read_back = read(tmp_path / "a.png", max_pixels=MANY)
    assert read_back.mode == "RGBA"
    assert [read_back.getpixel(at) for at in ((3, 3), (9, 9))] == [(255, 0, 0, 0), (0, 255, 0, 255)]


PROFILES = {
    "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "of Lab": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    "empty": b"",
    "noise": bombs.noise(),
    "cut short": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()[:200],
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_profile_that_does_not_fit_changes_nothing(
    tmp_path: Path, mode: str, profile: str
) -> None:
    plain, profiled = gradient().convert(mode), tmp_path / "profiled.jpg"
    profiled.write_bytes(saved(plain, "JPEG", icc_profile=PROFILES[profile], quality=95))
    (tmp_path / "plain.jpg").write_bytes(saved(plain, "JPEG", quality=95))
    inspect(profiled, max_pixels=MANY)
    difference = zip(
        read(profiled, max_pixels=MANY).tobytes(),
        read(tmp_path / "plain.jpg", max_pixels=MANY).tobytes(),
        strict=True,
    )
    assert max(abs(a - b) for a, b in difference) <= 2


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (8, 129), (1000, 62)])
def test_sides_that_no_engine_can_use_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(saved(Image.new("RGB", size), "PNG"))
    with pytest.raises(
        InvalidRequest, match="both sides must be at least 8, and the longer at most 16 times"
    ):
        inspect(tmp_path / "a.png", max_pixels=MANY)


@pytest.mark.parametrize("size", [(8, 8), (8, 128), (1600, 100)])
def test_extreme_sides_that_can_be_used_are_taken(url: str, size: tuple[int, int]) -> None:
    end = ended(url, post(url, saved(Image.new("RGB", size), "PNG")))
    assert (end["width"], end["height"]) == size


def test_picture_with_megabytes_of_metadata_is_read(tmp_path: Path) -> None:
    jpeg = saved(gradient(), "JPEG")
    segment = b"\xff\xe5" + (65_535).to_bytes(2, "big") + bytes(65_533)
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + segment * 200 + jpeg[2:])
    png = saved(gradient(), "PNG")
    (tmp_path / "a.png").write_bytes(png[:33] + bombs.chunk(b"prVt", bytes(10**7)) + png[33:])
    for name in ("a.jpg", "a.png"):
        inspect(tmp_path / name, max_pixels=MANY)
        assert read(tmp_path / name, max_pixels=MANY).size == (64, 48)


@pytest.mark.parametrize("name", ["a.png", "a.txt", "a", "a.exe"])
def test_a_name_says_nothing_about_a_picture(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(saved(gradient(), "JPEG"))
    assert inspect(tmp_path / name, max_pixels=MANY).extension == "jpg"


def test_polyglot_picture_is_reencoded(url: str) -> None:
    payload = b"PK\x03\x04<script>alert(document.cookie)</script>"
    for picture in (
        saved(gradient(), "JPEG") + payload,
        saved(gradient(), "GIF", comment=payload[:200]),
    ):
        id = ended(url, post(url, picture))["request_id"]
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.request("GET", f"/result/{id}")
        result = connection.getresponse()
        body = result.read()
        connection.close()
        assert result.headers["X-Content-Type-Options"] == "nosniff"
        assert result.headers["Content-Type"] == "image/png"
        assert b"script" not in body
        assert Image.open(io.BytesIO(body)).size == (64, 48)
