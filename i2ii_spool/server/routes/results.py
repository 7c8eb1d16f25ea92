"""The route of results: the pictures of a completed job."""

import asyncio

from aiohttp import hdrs, web

from i2ii_spool.errors import NotReady
from i2ii_spool.jobs.ids import check_id
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.long_poll import WAIT, long_poll
from i2ii_spool.server.pictures import answer_file
from i2ii_spool.server.query import Parameter, number, whole_number
from i2ii_spool.server.state import SPOOL
from i2ii_spool.spool.pictures import open_output

CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
N = Parameter(
    "n",
    "Which picture, if the request asked for several.",
    {"type": "integer", "minimum": 1, "maximum": 4, "default": 1},
)


async def result(request: web.Request) -> web.StreamResponse:
    """Fetch a picture.

    Until the job has ended, the answer is 202 with its status. A client that would take that for
    the picture gets the error `not_ready` instead: one that gives `wait`, or whose `Accept` names
    only pictures.
    """
    n, seconds = whole_number(request.query, N), number(request.query, WAIT)
    spool, id = request.app[SPOOL], check_id(request.match_info["id"])
    job = await long_poll(request, id, seconds)
    if not job.has_ended:
        if "wait" in request.query or accepts_only_pictures(request):
            raise NotReady(f"job {id} is {job.status}; it has no picture yet: try again")
        return json_response(job.to_dict(), status=202, headers={"Retry-After": "1"})
    picture = await asyncio.to_thread(open_output, spool, job, n)
    media_type = CONTENT_TYPES[picture.name.rpartition(".")[2]]
    name = f"{id}-{picture.name}"
    return answer_file(request, picture.file, media_type=media_type, name=name)


def accepts_only_pictures(request: web.Request) -> bool:
    """Return whether `Accept` names pictures and nothing else, so that JSON is not understood."""
    header = ",".join(request.headers.getall(hdrs.ACCEPT, []))
    media_types = [part.partition(";")[0].strip().lower() for part in header.split(",")]
    named = list(filter(None, media_types))
    return bool(named) and all(each.startswith("image/") for each in named)
