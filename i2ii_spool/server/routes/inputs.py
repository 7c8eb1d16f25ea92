"""The route of the pictures that a job was submitted with."""

import asyncio

from aiohttp import web

from i2ii_spool.jobs.folder import input_name
from i2ii_spool.jobs.ids import check_id
from i2ii_spool.jobs.request import MAX_IMAGES
from i2ii_spool.server.auth.access import load_authorized
from i2ii_spool.server.pictures import answer_file, media_type_of
from i2ii_spool.server.query import Parameter, whole_number
from i2ii_spool.server.state import SPOOL
from i2ii_spool.spool.pictures import open_input

N = Parameter(
    "n",
    "Which picture, if the job has several.",
    {"type": "integer", "minimum": 1, "maximum": MAX_IMAGES, "default": 1},
)


async def original(request: web.Request) -> web.StreamResponse:
    """Fetch a picture as it was submitted.

    Its bytes are those of the client, whatever the state of the job.
    """
    n, id = whole_number(request.query, N), check_id(request.match_info["id"])
    await load_authorized(request, id)
    picture = await asyncio.to_thread(open_input, request.app[SPOOL], id, n)
    try:
        media_type = await asyncio.to_thread(media_type_of, picture)
    except BaseException:
        picture.file.close()
        raise
    # A folder put in by hand has names of any kind: this one is safe in a header.
    name = f"{id}-{input_name(n - 1, media_type.rpartition('/')[2])}"
    return answer_file(request, picture.file, media_type=media_type, name=name)
