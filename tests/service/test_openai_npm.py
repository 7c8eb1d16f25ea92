"""The npm packages that talk to OpenAI's API, against a live service."""

import base64
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support import npm
from tests.support.pictures import make_picture
from tests.support.service import Service
from tests.support.workers import submit_into

pytestmark = [
    pytest.mark.skipif(npm.why_not() is not None, reason=str(npm.why_not())),
    pytest.mark.xdist_group("npm"),  # one service for the file
]

Edit = Callable[..., Any]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    service = Service(tmp_path_factory.mktemp("npm"))
    service.work(engine="quick")
    yield service.serve()
    service.stop_all()


@pytest.fixture(params=["openai.mjs", "ai_sdk.mjs"])
def edit(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Edit:
    """Edit a picture with one of the packages; the arguments are fields, and `url` of a server."""
    folder = npm.installed(request.config.cache.mkdir("npm"))  # type: ignore[union-attr]
    make_picture(tmp_path / "photo.png")
    mask = Image.new("RGBA", (64, 48), "white")
    mask.paste((0, 0, 0, 0), (0, 0, 32, 48))
    mask.save(tmp_path / "mask.png")
    return partial(npm.run, folder, request.param, url=url, pictures=tmp_path)


def sizes(answer: Any) -> list[tuple[int, int]]:
    assert "error" not in answer, answer
    opened = [Image.open(io.BytesIO(base64.b64decode(made))) for made in answer["made"]]
    return [each.size for each in opened]


def test_a_picture_is_edited(edit: Edit) -> None:
    assert sizes(edit()) == [(64, 48)]


def test_two_pictures_make_one(edit: Edit) -> None:
    assert sizes(edit(images=2)) == [(64, 48)]


def test_one_picture_makes_two(edit: Edit) -> None:
    assert sizes(edit(n=2)) == [(64, 48), (64, 48)]


def test_a_mask_is_taken(edit: Edit) -> None:
    assert sizes(edit(masked=True)) == [(64, 48)]


def test_fields_of_ours_are_taken(edit: Edit) -> None:
    assert sizes(edit(seed=7, num_inference_steps=12, output_format="webp")) == [(64, 48)]


@pytest.mark.parametrize("edit", ["openai.mjs"], indirect=True)
def test_pictures_come_as_events(edit: Edit) -> None:
    answer = edit(stream=True, n=2)
    assert answer["types"] == ["image_edit.completed"] * 2
    assert sizes(answer) == [(64, 48), (64, 48)]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"background": "transparent"}, 400, "invalid_request", "background"),
        ({"model": "sdxl"}, 404, "model_not_found", "model"),
        ({"size": "huge"}, 400, "invalid_request", "size"),
        ({"n": 9}, 400, "invalid_request", "n"),
        ({"markup": "x"}, 400, "invalid_request", "markup"),
    ],
)
def test_an_error_says_what_is_wrong(
    edit: Edit, fields: dict[str, Any], status: int, code: str, param: str
) -> None:
    error = edit(**fields)["error"]
    assert (error["status"], error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert param in error["message"]


def test_a_full_queue_is_an_error_of_the_rate(edit: Edit, service: Service, picture: Path) -> None:
    full = service.serve(max_queue="1")
    submit_into(service, picture)
    error = edit(url=full)["error"]
    assert (error["status"], error["code"]) == (429, "queue_full")
    assert error["type"] == "rate_limit_error"
