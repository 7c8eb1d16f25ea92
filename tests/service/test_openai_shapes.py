"""Requests as programs send them that edit pictures by OpenAI's API, from their sources.

Each reads the picture from `data[0].b64_json`; a `url` would have some of them fetch it, and fail.
"""

import asyncio
import base64
import io
from dataclasses import dataclass, field

import pytest
from PIL import Image

from i2ii_spool.spool.layout import State
from i2ii_spool.spool.lookup import count
from tests.support.app import Connect, HandWorker, in_chunks
from tests.support.http import BOUNDARY
from tests.support.pictures import encoded
from tests.support.service import wait_until

PICTURE = ("image.png", "image/png", encoded())
SECOND = ("image.png", "image/png", encoded(seed=1))
Part = tuple[str, str | tuple[str, str, bytes]]
"""The name of a field, and a text or a file: name, type, bytes."""


@dataclass(frozen=True)
class Sent:
    """A request of a program."""

    program: str
    parts: tuple[Part, ...]
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    is_chunked: bool = False
    """Whether the body has no length."""
    ignored: str | None = None
    """What `X-I2ii-Ignored` says."""


REQUESTS = [
    Sent(
        "Open WebUI, one picture",
        (
            ("model", "gpt-image-1"),
            ("prompt", "sepia"),
            ("response_format", "b64_json"),
            ("image", PICTURE),
        ),
        query="?api-version=2025-04-01-preview",
    ),
    Sent(
        "Open WebUI, two pictures",
        (
            *(("model", "gpt-image-1"), ("prompt", "sepia"), ("n", "1"), ("size", "512x512")),
            *(("response_format", "b64_json"), ("image[]", PICTURE), ("image[]", SECOND)),
        ),
    ),
    Sent(
        "LibreChat",
        (
            *(("model", "gpt-image-1"), ("prompt", "sepia"), ("n", "1")),
            *(("quality", "auto"), ("size", "auto")),
            ("image[]", ("photo.png", "image/png", encoded())),
        ),
        is_chunked=True,
    ),
    Sent(
        "LibreChat on Azure",
        (("model", "gpt-image-1"), ("prompt", "sepia"), ("image[]", PICTURE)),
        query="?api-version=2025-04-01-preview",
        headers={"api-key": "a-token-of-an-operator", "Authorization": ""},
        is_chunked=True,
    ),
    Sent(
        "Cherry Studio",
        (
            *(("prompt", "sepia"), ("model", "gpt-image-1"), ("background", "auto")),
            *(("size", "1024x1024"), ("quality", "high"), ("moderation", "low")),
            *(("image", PICTURE), ("image", SECOND)),
        ),
        ignored="moderation",
    ),
    Sent(
        "LobeChat",
        (
            *(("model", "gpt-image-1"), ("prompt", "sepia"), ("n", "1")),
            *(("input_fidelity", "high"), ("image", ("image.png", "image/png", encoded()))),
        ),
        headers={"x-stainless-retry-count": "0"},
        ignored="input_fidelity",
    ),
    Sent(
        "n8n",
        (
            ("image[]", ("data", "image/png", encoded())),
            *(("prompt", "sepia"), ("model", "gpt-image-1.5"), ("n", "1")),
            *(("size", "1024x1024"), ("quality", "auto")),
        ),
    ),
    Sent(
        "n8n, dall-e-2",
        (
            ("image", ("data", "image/png", encoded())),
            *(("prompt", "sepia"), ("model", "dall-e-2"), ("n", "1")),
            *(("size", "1024x1024"), ("response_format", "b64_json")),
        ),
    ),
    Sent(
        "gpt_image_playground",
        (
            *(("model", "gpt-image-2"), ("prompt", "sepia"), ("size", "1024x1024")),
            *(("output_format", "webp"), ("output_compression", "80"), ("moderation", "auto")),
            *(("quality", "auto"), ("image[]", ("input-1.png", "image/png", encoded()))),
        ),
        headers={"x-client-request-id": "0b1c", "Cache-Control": "no-store"},
        ignored="moderation",
    ),
    Sent(
        "Dify",
        (
            *(("prompt", "sepia"), ("model", "gpt-image-2"), ("n", "1"), ("size", "auto")),
            *(("quality", "medium"), ("image", ("upload", "application/octet-stream", encoded()))),
        ),
        headers={"x-stainless-retry-count": "0", "x-stainless-read-timeout": "600"},
    ),
    Sent(
        "ComfyUI",
        (
            *(("model", "gpt-image-1"), ("prompt", "sepia"), ("quality", "low")),
            *(("background", "opaque"), ("n", "1"), ("seed", "18446744073709551615")),
            *(("size", "auto"), ("moderation", "low")),
            ("image", ("image_0.png", "image/png", encoded())),
        ),
        ignored="moderation",
    ),
]


def body(parts: tuple[Part, ...]) -> bytes:
    written = b""
    for name, content in parts:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(content, str):
            written += f"{head}\r\n\r\n{content}\r\n".encode()
        else:
            filename, kind, data = content
            head += f'; filename="{filename}"\r\nContent-Type: {kind}\r\n\r\n'
            written += head.encode() + data + b"\r\n"
    return written + f"--{BOUNDARY}--\r\n".encode()


@pytest.mark.parametrize("sent", REQUESTS, ids=lambda sent: sent.program)
async def test_the_program_reads_its_picture(
    connect: Connect, worker: HandWorker, sent: Sent
) -> None:
    client = await connect(api_token="a-token-of-an-operator")
    headers = {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Authorization": "Bearer a-token-of-an-operator",
        "Accept": "application/json",
        **sent.headers,
    }
    data = body(sent.parts)
    asked = asyncio.create_task(
        client.post(
            f"/v1/images/edits{sent.query}",
            data=in_chunks(data) if sent.is_chunked else data,
            headers={name: value for name, value in headers.items() if value},
        )
    )
    await asyncio.to_thread(wait_until, lambda: asked.done() or count(worker.spool)[State.INCOMING])
    worker.finish()
    response = await asked
    assert response.status == 200, await response.text()
    assert response.headers.get("X-I2ii-Ignored") == sent.ignored
    answer = await response.json()
    [picture] = answer["data"]
    assert picture.keys() == {"b64_json"}
    assert None not in answer.values()
    with Image.open(io.BytesIO(base64.b64decode(picture["b64_json"]))) as made:
        assert made.size == (64, 48)
    images = [name for name, content in sent.parts if not isinstance(content, str)]
    [job] = worker.spool.done.iterdir()
    assert len(list(job.glob("input*"))) == len(images)
