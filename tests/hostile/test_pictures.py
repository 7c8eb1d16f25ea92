"""Pictures that mean harm, or are merely odd: the right answer or a clear error, and little memory
for either."""

import asyncio
import http.client
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from textwrap import indent
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageCms

from i2ii_spool.errors import InvalidRequest, UnsupportedPicture
from i2ii_spool.images.codec import read
from i2ii_spool.images.probe import inspect
from i2ii_spool.images.sandbox import limits, pool
from i2ii_spool.server.decoding import DecoderTurns
from tests.support import hostile_pictures as bombs
from tests.support.hostile_pictures import Bomb
from tests.support.http import Answer, post
from tests.support.pictures import gradient, saved
from tests.support.service import Service, get_json, wait_until

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


# --- a decoder that is taken over -----------------------------------------------------------------

Decoder = Callable[[str], Path]
TAKEN_OVER = """
import os, signal, socket
from i2ii_spool.images import pixels
from i2ii_spool.images.sandbox import process

def judge(file, **request):
{code}

pixels.judge = judge
process.main()
"""


@pytest.fixture
def decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    """Call it with what a decoder shall do instead of decoding; it returns a picture."""

    def take_over(code: str) -> Path:
        (tmp_path / "deadly.py").write_text(TAKEN_OVER.format(code=indent(code, "    ")))
        monkeypatch.setattr(pool, "PROCESS", "deadly")
        monkeypatch.setattr(pool, "PACKAGES", f"{tmp_path}:{pool.PACKAGES}")
        (tmp_path / "a.webp").write_bytes(saved(gradient(), "WEBP"))
        return tmp_path / "a.webp"

    pool.close()
    yield take_over
    pool.close()


WRITE_TO_EVERY_FILE = """
for descriptor in range(3, 50):
    try:
        os.write(descriptor, {said!r})
    except OSError:
        pass
os._exit(0)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "died of SIGKILL"),
        ("os._exit(3)", "gives up"),
        ("return 'wide', 'high'", "gives up"),
        ("raise KeyError('a bug')", "KeyError: 'a bug'"),
        ("b'x' * 10**12", "too much memory"),
        ("while True: pass", "too long"),
        (WRITE_TO_EVERY_FILE.format(said=b"{"), "gives up"),
        (WRITE_TO_EVERY_FILE.format(said=b"[1]"), "gives up"),
        (WRITE_TO_EVERY_FILE.format(said=b"9" * 10**5), "too long"),
        (
            WRITE_TO_EVERY_FILE.format(said=b'{"code": "engine_error", "message": "a\\u001b[0m"}'),
            "a.0m$",
        ),
    ],
)
def test_crash_of_a_decoder_refuses_only_its_picture(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    picture = decoder(code)
    monkeypatch.setattr(pool, "DECODING_SECONDS", 2)
    with pytest.raises(UnsupportedPicture, match=said):
        inspect(picture, max_pixels=10**6)
    monkeypatch.setattr(pool, "PROCESS", "i2ii_spool.images.sandbox.process")
    pool.close()
    assert inspect(picture, max_pixels=10**6).extension == "webp"


@pytest.mark.parametrize(
    "forbidden",
    [
        "open('/etc/passwd')",
        "open('{folder}/new', 'w')",
        "socket.socket()",
        "socket.socketpair()",
        "os.pipe()",
        "os.unlink('{folder}/a.webp')",
        "os.rename('{folder}/a.webp', '{folder}/b.webp')",
        "os.mkdir('{folder}/new')",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "os.kill({pid}, 0)",
    ],
)
def test_decoder_that_is_taken_over_reaches_nothing(
    decoder: Decoder, tmp_path: Path, forbidden: str
) -> None:
    if limits.landlock_version() < 6 and "unlink" in forbidden:
        pytest.skip("the kernel has no Landlock, or an early one")
    call = forbidden.format(folder=tmp_path, pid=os.getpid())
    picture = decoder(f"{call}\nraise ValueError('it was allowed')")
    with pytest.raises(UnsupportedPicture, match=r"Error: \[Errno"):
        inspect(picture, max_pixels=10**6)


def test_decoder_gets_neither_secrets_nor_modules_of_the_working_directory(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "resource.py").write_text("raise SystemExit('from the working directory')")
    monkeypatch.chdir(tmp_path / "away")
    monkeypatch.setenv("I2II_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "away"))
    picture = decoder("raise ValueError(f\"{'I2II_TOKEN' in os.environ} {os.getcwd()}\")")
    with pytest.raises(UnsupportedPicture, match=r"False /$"):
        inspect(picture, max_pixels=MANY)


def test_decoder_lives_within_the_limits_of_its_service(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(saved(gradient(), "WEBP"))
    program = (
        "import pathlib, resource, sys\n"
        "from i2ii_spool.images.probe import inspect\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (20, 20))\n"
        "print(inspect(pathlib.Path(sys.argv[1]), max_pixels=64 * 10**6).extension)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.webp")]
    if os.geteuid() == 0:  # who could raise the limits
        command = ["setpriv", "--bounding-set=-all", *command]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "webp\n", ran.stderr


def test_no_decoder_outlives_its_server(decoder: Decoder) -> None:
    picture = decoder("signal.pause()")
    program = (
        "import pathlib, sys\n"
        "from i2ii_spool.images.probe import inspect\n"
        "from i2ii_spool.images.sandbox import pool\n"
        "pool.PROCESS, pool.PACKAGES, picture = sys.argv[1:]\n"
        "inspect(pathlib.Path(picture), max_pixels=10**6)"
    )
    command = [sys.executable, "-c", program, pool.PROCESS, pool.PACKAGES, str(picture)]
    with subprocess.Popen(command) as process:
        wait_until(lambda: len(users_of(picture)) == 2)
        process.kill()
    wait_until(lambda: not users_of(picture))


async def test_a_server_that_stops_waits_for_no_decoder(decoder: Decoder) -> None:
    picture = decoder("signal.pause()")
    turns = DecoderTurns()
    waiting = asyncio.create_task(turns.run("a", partial(inspect, picture, max_pixels=MANY)))
    await asyncio.to_thread(wait_until, lambda: len(users_of(picture)) == 2)
    await asyncio.to_thread(turns.close)
    with pytest.raises(UnsupportedPicture, match="SIGKILL"):
        await waiting
    await asyncio.to_thread(wait_until, lambda: not users_of(picture))


def users_of(path: Path) -> set[str]:
    """The processes that have a file open."""
    opened = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink() == path:
                opened.add(link.parts[2])
    return opened


def test_decoder_that_was_killed_while_idle_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(saved(gradient(), "WEBP"))
    inspect(tmp_path / "a.webp", max_pixels=MANY)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for child in children:
        if pool.PROCESS.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
    assert inspect(tmp_path / "a.webp", max_pixels=MANY).extension == "webp"


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
