"""OpenAI's own Python client against a live service."""

import base64
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.support.pictures import encoded
from tests.support.service import Service, wait_until


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    service.work(engine="quick")
    with OpenAI(base_url=f"{service.serve()}/v1", api_key="none") as client:
        yield client


def sides(picture: Any) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(picture.b64_json))) as image:
        return image.size


def test_one_picture_and_several(client: OpenAI, picture: Path) -> None:
    with picture.open("rb") as file:
        [one] = client.images.edit(image=file, prompt="sepia", model="gpt-image-1").data or []
    assert sides(one) == (64, 48)
    several = [encoded(), encoded(seed=1)]
    made = client.images.edit(image=several, prompt="sepia", n=2, output_format="webp")
    assert len(made.data or []) == 2
    assert made.output_format == "webp"


def test_a_quality_that_is_asked_for_is_that_of_the_picture(client: OpenAI) -> None:
    def length(quality: int) -> int:
        made = client.images.edit(
            image=encoded(), prompt="sepia", output_format="jpeg", output_compression=quality
        )
        [picture] = made.data or []
        return len(picture.b64_json or "")

    assert length(10) < length(90)


def test_a_stream(client: OpenAI) -> None:
    with client.images.edit(image=encoded(), prompt="sepia", stream=True) as events:
        [event] = list(events)
    assert event.type == "image_edit.completed"
    assert sides(event) == (64, 48)


def test_errors_are_those_of_the_client(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.edit(image=encoded(), prompt="sepia", background="transparent")
    assert (refused.value.code, refused.value.param) == ("invalid_request", "background")
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="there is no model sdxl"):
        client.images.edit(image=encoded(), prompt="sepia", model="sdxl")
    with pytest.raises(openai.BadRequestError, match="image is plain text, not a picture"):
        client.images.edit(image=b"hello", prompt="sepia")


def test_the_models_are_listed(client: OpenAI) -> None:
    assert client.models.list().data


def test_a_server_that_is_killed_costs_no_second_job(service: Service) -> None:
    url = service.serve()
    answers: list[Any] = []

    def ask() -> None:
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=5) as client:
            answers.append(client.images.edit(image=encoded(), prompt="sepia"))

    asking = threading.Thread(target=ask)
    asking.start()
    [id] = wait_until(lambda: [path.name for path in service.spool.incoming.iterdir()])
    [server] = service.processes
    server.kill()
    server.wait()
    port = url.rpartition(":")[2]
    service.start(sys.executable, "-m", "i2ii_spool", "serve", "--port", port)
    service.work(engine="quick")
    asking.join(60)
    [answer] = answers
    assert sides(answer.data[0]) == (64, 48)
    assert [path.name for path in service.spool.done.iterdir()] == [id]


def test_a_worker_that_is_killed_costs_the_client_nothing(service: Service) -> None:
    url = service.serve()
    killed = service.work(engine="slow")
    answers: list[Any] = []

    def ask() -> None:
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            answers.append(
                client.images.edit(
                    image=encoded(), prompt="sepia", extra_body={"num_inference_steps": 20}
                )
            )

    asking = threading.Thread(target=ask)
    asking.start()
    [attempt] = wait_until(lambda: list(service.spool.running.glob("*/*/attempt-1.json")))
    killed.kill()
    killed.wait()
    service.work(engine="quick")
    asking.join(60)
    [answer] = answers
    assert sides(answer.data[0]) == (64, 48)
    [job] = service.spool.done.iterdir()
    assert job.name == attempt.parent.name
    assert (job / "attempt-2.json").exists()
