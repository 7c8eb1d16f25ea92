"""The HTTP application: every route, the middlewares, and what lives as long as it.

It turns requests into job folders and job folders into answers. It keeps no job in memory.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

from aiohttp import hdrs, web

from i2ii_spool import errors
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.server import answers
from i2ii_spool.server.assets import MEDIA_TYPES, run_assets
from i2ii_spool.server.auth.middleware import (
    AUTH,
    METRICS_PATH,
    TokenAuth,
    authenticate,
    watch_tokens_file,
)
from i2ii_spool.server.connection import keep_connection
from i2ii_spool.server.cursors import CURSORS, Cursors
from i2ii_spool.server.decoding import DECODER_TURNS, DecoderTurns
from i2ii_spool.server.errors import SERVER_NAME, errors_as_json, request_id
from i2ii_spool.server.event_streams import end_event_streams, run_event_streams
from i2ii_spool.server.limits import LIMITS, Limits
from i2ii_spool.server.long_poll import WAIT, answer_long_polls, run_long_polls
from i2ii_spool.server.metrics import METRICS, ServerMetrics, measure
from i2ii_spool.server.openai import routes as openai
from i2ii_spool.server.openai.answers import Models, Pictures
from i2ii_spool.server.openai.schemas import DRAWN_SEED, ImageEdit
from i2ii_spool.server.openai.waiting import run_waiting, stop_waiting
from i2ii_spool.server.openapi import DESCRIPTION, Description
from i2ii_spool.server.pictures import CONDITION_HEADERS
from i2ii_spool.server.pictures import MEDIA_TYPES as INPUT_TYPES
from i2ii_spool.server.routes import (
    archive,
    description,
    events,
    inputs,
    jobs,
    metrics,
    options,
    page,
    results,
    system,
    thumbnails,
)
from i2ii_spool.server.routing import Answer, Route, add_routes
from i2ii_spool.server.state import (
    COUNTS,
    DISK_THREADS,
    QUEUE,
    ROOM,
    SETTINGS,
    SPOOL,
    WORKERS,
    Cached,
    CurrentSettings,
)
from i2ii_spool.server.submits import KEY
from i2ii_spool.server.upload import FORM_FIELDS
from i2ii_spool.settings import Settings
from i2ii_spool.spool.capacity import room
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerObserver
from i2ii_spool.spool.lookup import count, queued_ids
from i2ii_spool.spool.maintenance import Maintenance, lease_seconds
from i2ii_spool.spool.status import JobStatus

OPENAI = "OpenAI's images API"
SUBMIT_ERRORS = (
    errors.UnsupportedPicture,
    errors.TooSlow,
    errors.IdempotencyKeyReused,
    errors.TooLarge,
    errors.UnsupportedMediaType,
    errors.QueueFull,
    errors.TooManyRequests,
)
JOB_ERRORS = (errors.NotFound, errors.Deleted)
CHANGE_ERRORS = (*JOB_ERRORS, errors.Forbidden, errors.WrongState)
LOCATION = {"Location": "The path of the job's status."}
VERSION = {
    "ETag": "Send it as `If-None-Match` to get 304 while the picture is unchanged.",
    "Last-Modified": "When the picture was written.",
}
PICTURE = {**VERSION, "Content-Disposition": "A file name that begins with the id of the job."}
PICTURES = tuple(results.CONTENT_TYPES.values())
INPUTS = tuple(INPUT_TYPES.values())
PAGE_VERSION = {"ETag": "Of the page, in this encoding."}
ROUTES = [
    Route(
        "GET",
        "/",
        page.index,
        answers=(
            Answer(200, "The page.", media_types=("text/html",), headers=PAGE_VERSION),
            Answer(304, "The client has this page.", headers=PAGE_VERSION),
        ),
        tag="Page",
    ),
    Route(
        "GET",
        "/page/{digest}/{name}",
        page.asset,
        answers=(Answer(200, "The file.", media_types=tuple(MEDIA_TYPES.values())),),
        errors=(errors.NotFound,),
        tag="Page",
    ),
    Route(
        "POST",
        "/edit",
        jobs.edit,
        headers=(KEY,),
        form_fields=FORM_FIELDS,
        form_models=(EditRequest,),
        answers=(Answer(202, "The job is on disk.", answers.Submitted, headers=LOCATION),),
        errors=SUBMIT_ERRORS,
        tag="Jobs",
    ),
    Route(
        "GET",
        "/status/{id}",
        jobs.status,
        parameters=(WAIT,),
        answers=(Answer(200, "The status. A key that does not apply is left out.", JobStatus),),
        errors=JOB_ERRORS,
        tag="Jobs",
    ),
    Route(
        "GET",
        "/result/{id}",
        results.result,
        parameters=(results.N, WAIT),
        headers=CONDITION_HEADERS,
        answers=(
            Answer(200, "The picture.", media_types=PICTURES, headers=PICTURE),
            Answer(
                202,
                "The job has not ended.",
                JobStatus,
                headers={"Retry-After": "Seconds to wait before the next try."},
            ),
            Answer(206, "The part that `Range` names.", media_types=PICTURES, headers=PICTURE),
            Answer(304, "The client has this picture.", headers=VERSION),
        ),
        errors=(
            *JOB_ERRORS,
            errors.NotReady,
            errors.JobFailed,
            errors.PreconditionFailed,
            errors.RangeNotSatisfiable,
        ),
        tag="Jobs",
    ),
    Route(
        "GET",
        "/inputs/{id}",
        inputs.original,
        parameters=(inputs.N,),
        headers=CONDITION_HEADERS,
        answers=(
            Answer(200, "The picture.", media_types=INPUTS, headers=PICTURE),
            Answer(206, "The part that `Range` names.", media_types=INPUTS, headers=PICTURE),
            Answer(304, "The client has this picture.", headers=VERSION),
        ),
        errors=(*JOB_ERRORS, errors.PreconditionFailed, errors.RangeNotSatisfiable),
        tag="Jobs",
    ),
    Route(
        "GET",
        "/thumbnails/{id}",
        thumbnails.thumbnail,
        parameters=(thumbnails.N, thumbnails.OF, thumbnails.SIDE),
        headers=tuple(each for each in CONDITION_HEADERS if "Range" not in each.name),
        answers=(
            Answer(200, "The small picture.", media_types=("image/webp",), headers=PICTURE),
            Answer(304, "The client has it.", headers=VERSION),
        ),
        errors=(
            *JOB_ERRORS,
            errors.UnsupportedPicture,
            errors.WrongState,
            errors.JobFailed,
            errors.PreconditionFailed,
            errors.TooManyRequests,
        ),
        tag="Jobs",
    ),
    Route(
        "POST",
        "/results.zip",
        archive.results,
        json_model=archive.Chosen,
        answers=(Answer(200, "The pictures, and a list of them.", media_types=(archive.ZIP,)),),
        errors=(
            *JOB_ERRORS,
            errors.WrongState,
            errors.JobFailed,
            errors.TooSlow,
            errors.TooLarge,
            errors.UnsupportedMediaType,
        ),
        tag="Jobs",
    ),
    Route(
        "GET",
        "/jobs",
        jobs.list_all,
        parameters=(jobs.LISTED_STATE, jobs.LIMIT, jobs.AFTER, jobs.TEXT),
        answers=(Answer(200, "A page of the list.", answers.JobList),),
        tag="Jobs",
    ),
    Route(
        "DELETE",
        "/jobs/{id}",
        jobs.delete,
        parameters=(jobs.SEEN_STATE,),
        answers=(
            Answer(200, "The job is cancelled, deleted or kept.", answers.Deletion),
            Answer(202, "The job stops at its next step.", answers.Deletion),
        ),
        errors=CHANGE_ERRORS,
        tag="Jobs",
    ),
    Route(
        "POST",
        "/jobs/{id}/cancel",
        jobs.cancel,
        answers=(
            Answer(200, "The job is cancelled.", answers.Cancellation),
            Answer(202, "The job stops at its next step.", answers.Cancellation),
        ),
        errors=CHANGE_ERRORS,
        tag="Jobs",
    ),
    Route(
        "POST",
        "/jobs/{id}/retry",
        jobs.retry,
        answers=(Answer(202, "The job waits again.", answers.Requeued, headers=LOCATION),),
        errors=CHANGE_ERRORS,
        tag="Jobs",
    ),
    Route(
        "GET",
        "/events",
        events.of_all,
        headers=(events.LAST_EVENT_ID,),
        answers=(Answer(200, "A stream of events.", media_types=(events.MEDIA_TYPE,)),),
        errors=(errors.TooManyRequests,),
        tag="Events",
    ),
    Route(
        "GET",
        "/events/{id}",
        events.of_job,
        headers=(events.LAST_EVENT_ID,),
        answers=(
            Answer(200, "A stream of events.", media_types=(events.MEDIA_TYPE,)),
            Answer(204, "The job has ended, and the client knows it."),
        ),
        errors=(*JOB_ERRORS, errors.TooManyRequests),
        tag="Events",
    ),
    Route(
        "POST",
        "/v1/images/edits",
        openai.edits,
        parameters=(openai.API_VERSION,),
        headers=(KEY, openai.RETRY_COUNT_HEADER),
        form_fields=openai.FIELDS,
        form_models=(EditRequest, ImageEdit),
        form_defaults={"seed": DRAWN_SEED},
        takes_json=True,
        answers=(
            Answer(
                200,
                "The pictures; with `stream` an event for each.",
                Pictures,
                media_types=("text/event-stream",),
            ),
        ),
        errors=(
            *SUBMIT_ERRORS,
            *JOB_ERRORS,
            errors.UnknownInstruction,
            errors.ModelNotFound,
            errors.JobFailed,
            errors.EngineError,
        ),
        tag=OPENAI,
    ),
    Route(
        "GET",
        "/v1/models",
        openai.list_models,
        parameters=(openai.API_VERSION,),
        answers=(Answer(200, "The models.", Models),),
        tag=OPENAI,
    ),
    Route(
        "GET",
        "/options",
        options.options,
        answers=(Answer(200, "What a client may ask for.", answers.Options),),
        tag="Service",
    ),
    Route(
        "GET",
        "/system/status",
        system.status,
        answers=(Answer(200, "The state of the service.", answers.SystemStatus),),
        tag="Service",
    ),
    Route(
        "GET",
        "/health",
        system.health,
        answers=(
            Answer(200, "Jobs will be done.", answers.Healthy),
            Answer(503, "Jobs will not be done now.", answers.Unhealthy),
        ),
        tag="Service",
    ),
    Route(
        "GET",
        "/livez",
        system.livez,
        answers=(Answer(200, "The server answers.", answers.Alive),),
        tag="Service",
    ),
    Route(
        "GET",
        METRICS_PATH,
        metrics.metrics,
        answers=(Answer(200, "The metrics.", media_types=("text/plain",)),),
        errors=(errors.Forbidden,),
        tag="Service",
    ),
    Route(
        "GET",
        "/openapi.json",
        description.openapi,
        answers=(Answer(200, "The description.", media_types=("application/json",)),),
        tag="Description",
    ),
    Route(
        "GET",
        "/docs",
        description.docs,
        answers=(Answer(200, "The page.", media_types=("text/html",)),),
        tag="Description",
    ),
    Route(
        "GET",
        "/docs/rapidoc.js",
        description.script,
        answers=(Answer(200, "The script.", media_types=("text/javascript",)),),
        tag="Description",
    ),
]
QUEUE_AGE_SECONDS = 0.05
WORKERS_AGE_SECONDS = 0.5
COUNTS_AGE_SECONDS = 0.5
ROOM_AGE_SECONDS = 0.05
ANSWERING_THREADS = 8
DURABLE_THREADS = 16
"""They wait for the disk, not for a core: this many uploads can be made durable at once."""


def create_app(settings: Settings) -> web.Application:
    """Return the application. It creates its spool when it starts."""
    app = web.Application(middlewares=[measure, errors_as_json, authenticate, keep_connection])
    app[SETTINGS] = CurrentSettings(settings)
    app[SPOOL] = Spool(settings.spool)
    app[AUTH] = TokenAuth(settings)
    app[LIMITS] = Limits()
    app[METRICS] = ServerMetrics()
    app[CURSORS] = Cursors()
    app[DESCRIPTION] = Description(ROUTES, needs_token=settings.auth_required)
    add_routes(app, ROUTES)
    app.cleanup_ctx.extend([run_threads, run_assets, run_spool])
    app.cleanup_ctx.extend([run_long_polls, run_event_streams])
    app.cleanup_ctx.extend([run_waiting, watch_tokens_file])
    app.on_shutdown.extend([stop_waiting, answer_long_polls, end_event_streams])
    app.on_response_prepare.append(add_headers)
    return app


async def run_threads(app: web.Application) -> AsyncIterator[None]:
    """Give answers, uploads and decoders threads of their own: none waits for another kind."""
    answering = ThreadPoolExecutor(ANSWERING_THREADS, thread_name_prefix="answer")
    asyncio.get_running_loop().set_default_executor(answering)
    app[DECODER_TURNS] = turns = DecoderTurns()
    with (
        ThreadPoolExecutor(DURABLE_THREADS, thread_name_prefix="disk") as app[DISK_THREADS],
        closing(turns),
    ):
        yield


async def run_spool(app: web.Application) -> AsyncIterator[None]:
    """Create the spool; read it and maintain it while the application runs."""
    spool, settings = app[SPOOL], app[SETTINGS].settings
    await asyncio.to_thread(spool.create)
    app[ROOM] = Cached(partial(room, spool), age=ROOM_AGE_SECONDS)
    app[QUEUE] = Cached(partial(queued_ids, spool), age=QUEUE_AGE_SECONDS)
    workers = WorkerObserver(spool, lease=lease_seconds(spool, settings))
    app[WORKERS] = Cached(workers.look, age=WORKERS_AGE_SECONDS)
    app[COUNTS] = Cached(partial(count, spool), age=COUNTS_AGE_SECONDS)
    with app[METRICS].events, Maintenance(spool, settings):
        yield


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Keep answers out of caches, unless they say otherwise; do not advertise aiohttp."""
    response.headers.setdefault("X-Request-ID", request_id(request))
    response.headers[hdrs.SERVER] = SERVER_NAME
    response.headers.setdefault(hdrs.CACHE_CONTROL, "private, no-store")
    response.headers.setdefault(hdrs.VARY, hdrs.AUTHORIZATION)
    request.app[AUTH].origins.add_headers(request, response)
