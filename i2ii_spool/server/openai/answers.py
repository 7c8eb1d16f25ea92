"""Answers with pictures, in base64. They are encoded as they are sent: four may take 200 MB."""

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, Literal

from aiohttp import web

from i2ii_spool.errors import InvalidRequest, NotFound
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.jobs.request import OutputFormat
from i2ii_spool.server.answers import Answer, SparseAnswer
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.status import JobStatus


class Picture(SparseAnswer):
    """A picture, or where it is."""

    b64_json: str | None = None
    """The picture in base64."""
    url: str | None = None
    """With `response_format=url`."""


class Pictures(Answer):
    """The pictures of a job."""

    created: int
    """When the job ended, in seconds since 1970."""
    background: Literal["opaque"]
    output_format: OutputFormat
    quality: str
    """As asked for."""
    size: str
    """Width and height in pixels, like `1024x768`."""
    data: tuple[Picture, ...]


class Model(Answer):
    """A model that runs."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "i2ii"


class Models(Answer):
    """The models that run."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]


CHUNK = 3 * 2**16
"""Bytes; of three each, base64 needs no padding."""


@contextmanager
def opened_pictures(spool: Spool, job: JobStatus) -> Iterator[list[BinaryIO]]:
    """Open the pictures of a completed job. Raises `Deleted` or `NotFound`."""
    with ExitStack() as stack:
        try:
            paths = [spool.done / job.request_id / name for name in job.outputs or ()]
            files: list[BinaryIO] = [stack.enter_context(open_regular(path)) for path in paths]
        except (FileNotFoundError, InvalidRequest):
            find(spool, job.request_id)
            raise NotFound(f"job {job.request_id} no longer has its pictures") from None
        yield files


async def write_answer(
    response: web.StreamResponse, shown: Mapping[str, Any], pictures: Sequence[BinaryIO]
) -> None:
    """Write a JSON object whose last key, `data`, has the pictures."""
    await response.write(json.dumps({**shown, "data": []})[: -len("]}")].encode())
    for index, picture in enumerate(pictures):
        if index:
            await response.write(b", ")
        await write_picture(response, {}, picture)
    await response.write(b"]}")


async def write_picture(
    response: web.StreamResponse, shown: Mapping[str, Any], picture: BinaryIO
) -> None:
    """Write a JSON object whose last key, `b64_json`, is the picture."""
    await response.write(json.dumps({**shown, "b64_json": ""})[: -len('"}')].encode())
    while chunk := await asyncio.to_thread(picture.read, CHUNK):
        await response.write(base64.b64encode(chunk))
    await response.write(b'"}')
