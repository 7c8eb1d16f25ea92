"""A mask, through each door: what it keeps is pasted back from the picture, exactly."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from openai import OpenAI
from PIL import Image, ImageChops, ImageDraw

from i2ii_spool.client import Client
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool.layout import Spool
from tests.support.app import Connect, check_error, form
from tests.support.guests import ending, make_guest, shell
from tests.support.jobs import names_in
from tests.support.pictures import gradient, saved
from tests.support.service import Service, cli

pytestmark = pytest.mark.xdist_group("masks")  # one service for the file

SIZE = (96, 64)
PORTRAIT = (64, 96)
EDITED = (0, 0, 32, 32)
"""What the mask leaves transparent, of the picture upright."""
EXIF_ORIENTATION = 0x0112


def mask(size: tuple[int, int] = SIZE, *, kind: str = "PNG") -> bytes:
    image = Image.new("RGBA", size, "white")
    ImageDraw.Draw(image).rectangle((0, 0, EDITED[2] - 1, EDITED[3] - 1), fill="#00000000")
    return saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))


def photo(path: Path) -> Path:
    path.write_bytes(saved(gradient(SIZE), "PNG"))
    return path


def over_http(service: Service, picture: Path, mask: Path) -> Image.Image:
    with Client(str(service.url)) as client:
        return client.edit([picture], EditRequest(prompt="invert"), mask=mask)


def by_hand(service: Service, picture: Path, mask: Path) -> Image.Image:
    guest = make_guest(picture.parent / "masked", prompt="invert")
    (guest / "beach.png").write_bytes(picture.read_bytes())
    (guest / "mask.png").write_bytes(mask.read_bytes())
    shell("mv", guest, service.spool.incoming)
    job = ending(service.spool, "masked")
    request = json.loads((job / "job.json").read_text())
    assert (request["inputs"], request["mask"]) == (["beach.png"], "mask.png")
    return Image.open(job / "result.png")


def by_command(service: Service, picture: Path, mask: Path) -> Image.Image:
    made = picture.with_name("made.png")
    command = ("submit", str(picture), "--mask", str(mask), "-p", "invert", "--wait")
    cli(service, *command, "-o", str(made))
    return Image.open(made)


def by_openai(service: Service, picture: Path, mask: Path) -> Image.Image:
    with OpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
        answer = client.images.edit(
            image=picture, mask=mask, prompt="invert", size="96x64", response_format="b64_json"
        )
    [made] = answer.data or []
    assert made.b64_json is not None
    return Image.open(io.BytesIO(base64.b64decode(made.b64_json)))


@pytest.mark.parametrize("edit", [over_http, by_hand, by_command, by_openai])
def test_what_the_mask_keeps_is_the_pictures(
    live: Service, tmp_path: Path, edit: Callable[[Service, Path, Path], Image.Image]
) -> None:
    picture = photo(tmp_path / "beach.png")
    (tmp_path / "where.png").write_bytes(mask())

    made = edit(live, picture, tmp_path / "where.png").convert("RGB")

    before = gradient(SIZE)
    assert made.size == SIZE
    for x in range(SIZE[0]):
        for y in range(SIZE[1]):
            if x >= EDITED[2] or y >= EDITED[3]:
                assert made.getpixel((x, y)) == before.getpixel((x, y))
    middle = (16, 16)
    assert made.getpixel(middle) == ImageChops.invert(before).getpixel(middle)


def test_a_mask_is_of_the_upright_picture(live: Service) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    turned = saved(gradient(SIZE), "JPEG", exif=exif)
    with Client(str(live.url)) as client:
        made = client.edit(
            [turned],
            EditRequest(prompt="invert"),
            mask=mask(PORTRAIT, kind="WEBP"),
        )
    assert made.size == PORTRAIT


def test_the_record_names_the_mask_and_its_edge(live: Service) -> None:
    with Client(str(live.url)) as client:
        id = client.submit([gradient(SIZE)], EditRequest(prompt="invert"), mask=mask())
        client.wait(id)
    job = live.spool.done / id
    assert names_in(job) == [
        "attempt-1.json",
        "input.png",
        "job.json",
        "mask.png",
        "progress.json",
        "result.json",
        "result.png",
    ]
    assert json.loads((job / "result.json").read_text())["details"]["mask"] == {"feather": 4}


OPAQUE = saved(Image.new("RGB", SIZE), "JPEG")


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (mask((64, 64)), "invalid_request", "mask has 64x64 pixels and the first picture 96x64"),
        (OPAQUE, "invalid_request", "mask has no transparent pixel"),
        (b"", "unsupported_picture", "mask is empty"),
        (b"hello", "unsupported_picture", "mask is plain text"),
        (mask()[:-30], "unsupported_picture", "mask is truncated or damaged"),
    ],
    ids=["size", "opaque", "empty", "text", "cut"],
)
async def test_a_bad_mask_is_refused_at_the_door(
    connect: Connect, spool: Spool, sent: bytes, code: str, said: str
) -> None:
    client = await connect()
    for path in ("/edit", "/v1/images/edits"):
        data = form(saved(gradient(SIZE), "PNG"))
        data.add_field("mask", sent, filename="mask.png")
        response = await client.post(path, data=data)
        assert said in await check_error(response, 400, code, "mask")
    assert names_in(spool.incoming) == names_in(spool.staging) == []


async def test_a_result_with_a_mask_has_the_size_of_the_picture(connect: Connect) -> None:
    client = await connect()
    data = form(saved(gradient(SIZE), "PNG"), size="1024x1024")
    data.add_field("mask", mask(), filename="mask.png")
    response = await client.post("/edit", data=data)
    said = await check_error(response, 400, "invalid_request", "size")
    assert "size must be auto, input or 96x64 with a mask" in said


async def test_a_second_mask_is_refused_and_an_empty_input_is_none(connect: Connect) -> None:
    client = await connect()
    data = form(saved(gradient(SIZE), "PNG"))
    data.add_field("mask", b"", filename="")
    assert (await client.post("/edit", data=data)).status == 202
    data = form(saved(gradient(SIZE), "PNG"))
    for _ in range(2):
        data.add_field("mask", mask(), filename="mask.png")
    response = await client.post("/edit", data=data)
    assert "twice" in await check_error(response, 400, "invalid_request", "mask")


async def test_a_key_stands_for_the_mask_too(connect: Connect) -> None:
    client = await connect()

    async def submit(*, with_mask: bool) -> int:
        data = form(saved(gradient(SIZE), "PNG"))
        if with_mask:
            data.add_field("mask", mask(), filename="mask.png")
        answer = await client.post("/edit", data=data, headers={"Idempotency-Key": "one"})
        return answer.status

    assert [await submit(with_mask=each) for each in (True, True, False)] == [202, 202, 409]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["mask.png"], "there is no picture in the folder but mask.png, which is taken for a mask"),
        (["a.png", "mask.png", "Mask.webp"], "there are two masks"),
    ],
)
def test_a_folder_without_a_picture_to_mask_says_so(
    live: Service, tmp_path: Path, files: list[str], said: str
) -> None:
    name = f"masks-{len(files)}"
    shell("mv", make_guest(tmp_path / name, *files, prompt="invert"), live.spool.incoming)
    job = ending(live.spool, name)
    assert said in (job / "error.txt").read_text()


def test_a_mask_called_like_a_result_is_not_overwritten(live: Service, tmp_path: Path) -> None:
    request = {"prompt": "invert", "inputs": ["a.png"], "mask": "result.png"}
    guest = make_guest(tmp_path / "odd", request=request)
    photo(guest / "a.png")
    (guest / "result.png").write_bytes(mask())
    shell("mv", guest, live.spool.incoming)
    job = ending(live.spool, "odd")
    assert (job / "result.png").read_bytes() == mask()
    assert json.loads((job / "result.json").read_text())["outputs"] == ["result-2.png"]
