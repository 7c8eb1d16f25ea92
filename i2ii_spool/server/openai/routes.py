"""`POST /v1/images/edits` and `GET /v1/models`: a job of the spool, and a client that waits for it.

A client that goes away has its job cancelled after ten seconds. OpenAI's clients send a request
again after a timeout or a lost connection, without a key: such a request takes the job over.
"""

import json
import math

from aiohttp import web

from i2ii_spool.errors import I2iiError, TooManyConnections, TooManyRequests
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.server.auth.middleware import CALLER
from i2ii_spool.server.cut_off import cut_off_if_it_fails
from i2ii_spool.server.errors import described, json_response
from i2ii_spool.server.long_poll import LONG_POLLS, long_poll
from i2ii_spool.server.openai import json_body
from i2ii_spool.server.openai.answers import (
    Model,
    Models,
    opened_pictures,
    write_answer,
    write_picture,
)
from i2ii_spool.server.openai.schemas import OURS, ImageEdit
from i2ii_spool.server.openai.translate import (
    COMPLETED,
    Asked,
    about,
    asked,
    failure,
    models,
    of_event,
    with_urls,
)
from i2ii_spool.server.openai.waiting import WAITING, Client
from i2ii_spool.server.query import Parameter
from i2ii_spool.server.state import DISK_THREADS, SETTINGS, SPOOL, WORKERS
from i2ii_spool.server.submits import accept
from i2ii_spool.server.upload import FORM, IMAGE, MASK, check_body, read_form
from i2ii_spool.spool.status import JobStatus
from i2ii_spool.spool.submit import Submission

PROGRESS_SECONDS = 1.0
RETRY_COUNT = "x-stainless-retry-count"
RETRY_COUNT_HEADER = Parameter(
    RETRY_COUNT,
    "Of OpenAI's clients: a request that is sent again takes its job over.",
    {"type": "string"},
)
API_VERSION = Parameter("api-version", "Ignored; clients for Azure send it.", {"type": "string"})
IGNORED_HEADER = "X-I2ii-Ignored"
UNBUFFERED = {"X-Accel-Buffering": "no"}
"""nginx passes on at once what it gets."""
FIELDS = (IMAGE, MASK, *dict.fromkeys((*OURS, *ImageEdit.model_fields)))


async def edits(request: web.Request) -> web.StreamResponse:
    """Edit a picture with a client of the OpenAI API.

    The request waits for the end of its job, and is answered with the pictures.
    """
    reads_json = check_body(request, json_body.MEDIA_TYPE) != FORM
    app = request.app
    settings, workers = app[SETTINGS].settings, await app[WORKERS].get()
    if app[LONG_POLLS].count(request[CALLER].name) >= settings.client_max_waiting:
        raise TooManyRequests("too many of your requests wait for their pictures; try again later")
    wanted: Asked | None = None

    async def read(submission: Submission) -> EditRequest:
        nonlocal wanted
        disk = app[DISK_THREADS]
        body = json_body.read_json if reads_json else read_form
        form = await body(request, submission, settings.max_bytes, disk, known=FIELDS)
        wanted = asked(form, workers, settings.aliases)
        return wanted.edit

    is_repeated = request.headers.get(RETRY_COUNT, "0") not in ("", "0")
    accepted = await accept(request, read, take_over=is_repeated)
    assert wanted is not None
    headers = {"X-Request-ID": accepted.id}
    if wanted.ignored:
        headers[IGNORED_HEADER] = ", ".join(wanted.ignored)
    with app[WAITING].client(accepted.id) as client:
        if wanted.image_edit.stream:
            return await _stream(request, client, wanted.image_edit, headers)
        return await _answer(request, client, wanted.image_edit, headers)


async def _answer(
    request: web.Request, client: Client, image_edit: ImageEdit, headers: dict[str, str]
) -> web.StreamResponse:
    """Answer with a JSON object, once the job has ended."""
    keepalive = request.app[SETTINGS].settings.keepalive
    response = web.StreamResponse(headers={**headers, **(UNBUFFERED if keepalive else {})})
    response.content_type = "application/json"
    async with cut_off_if_it_fails(request, response):
        while True:
            job = await _wait(request, client, keepalive or math.inf)
            is_over = request.app[LONG_POLLS].closed or request.transport is None
            if job.has_ended or is_over:
                break
            if keepalive:
                await response.prepare(request)
                await response.write(b" ")
        check_completed(job)
        if image_edit.response_format == "url":
            answer = json.dumps(with_urls(request, job, image_edit))
            await response.prepare(request)
            await response.write(answer.encode())
            return response
        with opened_pictures(request.app[SPOOL], job) as pictures:
            await response.prepare(request)
            await write_answer(response, about(job, image_edit), pictures)
    return response


async def _stream(
    request: web.Request, client: Client, image_edit: ImageEdit, headers: dict[str, str]
) -> web.StreamResponse:
    """Answer with an event for each picture. Progress is told in comments, which no client minds:
    OpenAI's take an event that they do not know for a picture."""
    response = web.StreamResponse(headers={**headers, **UNBUFFERED})
    response.content_type = "text/event-stream"
    await response.prepare(request)
    async with cut_off_if_it_fails(request, response):
        try:
            while True:
                job = await _wait(request, client, PROGRESS_SECONDS)
                if job.has_ended or request.app[LONG_POLLS].closed:
                    break
                await response.write(f": {job.to_progress()}\n\n".encode())
            check_completed(job)
            with opened_pictures(request.app[SPOOL], job) as pictures:
                for picture in pictures:
                    await response.write(f"event: {COMPLETED}\ndata: ".encode())
                    await write_picture(response, of_event(job, image_edit), picture)
                    await response.write(b"\n\n")
        except I2iiError as error:
            data = json.dumps({"type": "error", "error": described(error)})
            await response.write(f"event: error\ndata: {data}\n\n".encode())
    return response


async def _wait(request: web.Request, client: Client, seconds: float) -> JobStatus:
    job = await long_poll(request, client.id, seconds)
    client.has_ended = job.has_ended
    return job


def check_completed(job: JobStatus) -> None:
    """Raise the error of a job that has no pictures."""
    if not job.has_ended:  # the client has gone, or the server stops
        raise TooManyConnections(
            f"the server stops; job {job.request_id} goes on: send the same request again"
        )
    if job.status != "completed":
        raise failure(job)


async def list_models(request: web.Request) -> web.Response:
    """List the models that run."""
    names = models(await request.app[WORKERS].get())
    return json_response(Models(data=tuple(Model(id=name) for name in names)).to_dict())
