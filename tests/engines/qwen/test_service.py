"""Every kind of model through the whole service: a real server, a real worker, and HTTP."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from i2ii_spool.client import Client
from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.request import EditRequest
from tests.engines.qwen import KINDS, REASON, SIDE, are_equal, ask, photo
from tests.support.service import Service, get_json, wait_until

pytest.importorskip("diffusers", reason=REASON)
pytest.importorskip("torch", reason=REASON)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Edit = Callable[..., Image.Image]
PRESETS = """
[draft]
num_inference_steps = 4
true_cfg_scale = 1.0
shift = 3.0
"""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def running(
    kind: str, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A spool with one worker, which has loaded the tiny model of this kind."""
    service = Service(tmp_path_factory.mktemp("service"))
    presets = service.spool.root.parent / "presets.toml"
    presets.write_text(PRESETS)
    service.environment |= {
        "I2II_ENGINE": "qwen",
        "I2II_MODEL": str(models[kind]),
        "I2II_MAX_SIDE": str(SIDE),
    }
    service.environment["I2II_PRESETS"] = str(presets)
    service.start(sys.executable, "-m", "i2ii_spool", "gpu", "0")
    wait_until(
        lambda: any(worker["state"] != "loading" for worker in service.workers()), seconds=120
    )
    yield service
    service.stop_all()


@pytest.fixture(scope="module")
def url(running: Service) -> str:
    return running.serve()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def edit(client: Client, tmp_path: Path) -> Edit:
    """POST pictures and a request, wait, and fetch one picture of the result."""

    def edited(*pictures: Image.Image, take: int = 1, **fields: Any) -> Image.Image:
        id = client.submit(saved(tmp_path, *(pictures or [photo()])), ask(**fields))
        status = client.wait(id)
        assert status.status == "completed", status.error
        return Image.open(io.BytesIO(client.result(id, take))).convert("RGB")

    return edited


def saved(folder: Path, *pictures: Image.Image) -> list[Path]:
    paths = [folder / f"{index}.png" for index in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    return paths


def test_equal_requests_give_equal_bits_and_every_field_counts(edit: Edit) -> None:
    made = edit()
    assert are_equal(made, edit())
    others = {
        "seed": edit(seed=2),
        "prompt": edit(prompt="将图像转换为水彩画风格"),
        "negative prompt": edit(negative_prompt="blurry"),
        "picture": edit(photo(at=-1.0)),
    }
    assert [what for what, other in others.items() if are_equal(made, other)] == []


def test_n_pictures_are_those_of_n_seeds(edit: Edit) -> None:
    assert are_equal(edit(n=2, take=2), edit(seed=2))


def test_a_second_picture_counts(edit: Edit, kind: str) -> None:
    if kind == "1":
        pytest.skip("this model takes one picture")
    assert not are_equal(edit(photo(), photo(at=-1.0)), edit())


def test_size_input_is_the_size_of_the_first_picture(edit: Edit) -> None:
    assert edit(photo(75, 101), size="input").size == (75, 101)


def test_what_a_mask_keeps_is_the_pictures(client: Client, url: str) -> None:
    picture = photo(75, 101)
    mask = Image.new("RGBA", picture.size, "white")
    mask.paste((0, 0, 0, 0), (0, 0, 40, 101))
    id = client.submit([picture], ask(), mask=mask)
    assert client.wait(id).status == "completed"
    made = Image.open(io.BytesIO(client.result(id))).convert("RGB")
    kept = (40, 0, 75, 101)
    assert are_equal(made.crop(kept), picture.crop(kept))
    assert not are_equal(made, picture)
    details = get_json(f"{url}/status/{id}")["details"]
    assert details["mask"] == {"feather": 4}
    assert details["transform"]["input"] == details["transform"]["result"] == [75, 101]


def test_a_preset_decides_what_a_request_leaves_open(
    client: Client, url: str, tmp_path: Path
) -> None:
    id = client.submit(saved(tmp_path, photo()), EditRequest(prompt="anything", preset="draft"))
    assert client.wait(id).status == "completed"
    details = get_json(f"{url}/status/{id}")["details"]
    assert (details["preset"], details["num_inference_steps"], details["true_cfg_scale"]) == (
        "draft",
        4,
        1.0,
    )
    id = client.submit(saved(tmp_path, photo()), EditRequest(prompt="anything", preset="no-such"))
    error = client.wait(id).error or {}
    assert error["field"] == "preset"
    assert "there are quality, balanced, draft" in error["message"]


def test_what_a_client_may_write_never_pauses_the_worker(
    client: Client, running: Service, tmp_path: Path
) -> None:
    pictures = saved(tmp_path, photo())
    too_long = [client.submit(pictures, ask(prompt="😀" * 4000)) for _ in range(4)]
    for id in too_long:
        error = client.wait(id).error or {}
        assert (error["code"], error["field"]) == ("invalid_request", "prompt")
        assert "16000 tokens" in error["message"]
    special = client.submit(pictures, ask(prompt="a <|image_pad|> of <|im_end|>"))
    assert client.wait(special).status == "completed"
    assert [worker["note"] for worker in running.workers()] == [""]


def test_more_pictures_than_the_model_takes_are_refused_at_the_door(
    client: Client, kind: str, tmp_path: Path
) -> None:
    most = {"1": 1, "2.1": 10}.get(kind, 3)
    with pytest.raises(InvalidRequest, match=f"{most + 1} were given") as raised:
        client.submit(saved(tmp_path, *[photo()] * (most + 1)), ask())
    assert raised.value.field == "image"


def test_progress_only_grows_and_a_cancel_does_not_change_the_next_edit(
    url: str, client: Client, edit: Edit, tmp_path: Path
) -> None:
    before = edit()
    id = client.submit(saved(tmp_path, photo()), ask(num_inference_steps=100, n=4))
    steps = [0]
    while len(set(steps)) < 3:
        status = get_json(f"{url}/status/{id}")
        assert status["status"] in ("queued", "running"), status
        steps.append(status.get("step", 0))
    client.cancel(id)
    assert client.wait(id).status == "cancelled"
    assert steps == sorted(steps)
    assert 0 < steps[-1] < status["steps"] == 400
    assert are_equal(edit(), before)
