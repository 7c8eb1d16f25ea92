"""The route of many results in one file, which is packed while it is sent."""

import asyncio
import csv
import io
import json
import os
import zipfile
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Annotated

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field

from i2ii_spool.errors import InvalidRequest, NotFound, TooLarge, UnsupportedMediaType
from i2ii_spool.jobs.ids import check_id
from i2ii_spool.jobs.request import MAX_SEED, parse_json
from i2ii_spool.jobs.text import repeated_key
from i2ii_spool.server.auth.middleware import CALLER, Caller
from i2ii_spool.server.cut_off import cut_off_if_it_fails
from i2ii_spool.server.state import SPOOL
from i2ii_spool.server.upload import limited_body
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.pictures import open_output
from i2ii_spool.spool.status import JobStatus, no_result, read_status

JSON = "application/json"
ZIP = "application/zip"
MAX_IDS = 1000
MAX_BODY = 256 * 1024
CHUNK = 256 * 1024
MANIFEST = "manifest.csv"
COLUMNS = ("id", "name", "prompt", "seed", "file")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that spreadsheets take for a formula."""


class Chosen(BaseModel):
    """The jobs whose results are wanted."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[
        list[str],
        Field(min_length=1, max_length=MAX_IDS, description="the ids of completed jobs, each once"),
    ]


async def results(request: web.Request) -> web.StreamResponse:
    """Fetch the results of many jobs as a zip.

    It is sent while it is packed. If a job is deleted meanwhile, the connection is cut off.
    """
    ids = await _read_ids(request)
    caller, spool = request[CALLER], request.app[SPOOL]
    jobs = await asyncio.to_thread(_load, spool, ids, caller)
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: ZIP,
            hdrs.CONTENT_DISPOSITION: 'attachment; filename="i2ii-results.zip"',
            "X-Content-Type-Options": "nosniff",
        }
    )
    parts = pack(spool, jobs)
    try:
        async with cut_off_if_it_fails(request, response):
            await response.prepare(request)
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                await response.write(part)
            await response.write_eof()
    finally:
        with suppress(ValueError):  # the server stops while a thread reads the last part
            parts.close()
    return response


async def _read_ids(request: web.Request) -> list[str]:
    """Return the ids in a body of JSON. Raises `InvalidRequest`, and what reading it raises."""
    if request.content_type != JSON:
        raise UnsupportedMediaType(f'the body must be {JSON}, like {{"ids": ["..."]}}')
    text = bytearray()
    async with limited_body(request, MAX_BODY + CHUNK) as body:
        while chunk := await body.read(CHUNK):
            text += chunk
            if len(text) > MAX_BODY:
                raise TooLarge(f"the body has more than {MAX_BODY} bytes; name fewer ids")
    chosen = parse_json(Chosen, bytes(text))
    json.loads(text, object_pairs_hook=_check_keys)
    for id in chosen.ids:
        check_id(id, "ids")
    if len(set(chosen.ids)) < len(chosen.ids):
        twice = next(id for id in chosen.ids if chosen.ids.count(id) > 1)
        raise InvalidRequest(f"ids has {twice} twice; name it once", field="ids")
    return chosen.ids


def _check_keys(pairs: list[tuple[str, object]]) -> None:
    if (key := repeated_key(pairs)) is not None:
        raise InvalidRequest(f"{key} is given twice", field=key)


def _load(spool: Spool, ids: Sequence[str], caller: Caller) -> list[JobStatus]:
    """Return the jobs. Raises the error of the first that has no result for this caller."""
    jobs = []
    for id in ids:
        job = read_status(spool, id, queue=())
        if not caller.may_see(job.owner):
            raise NotFound(f"there is no job {id}")
        if job.status != "completed" or not job.outputs:
            raise no_result(job)
        jobs.append(job)
    return jobs


class Sink:
    """Where `zipfile` writes: the bytes are taken from it as they come."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        """Add bytes."""
        self._data += data
        return len(data)

    def flush(self) -> None:
        """Do nothing."""

    def take(self) -> bytes:
        """Return the bytes that were added since the last time."""
        taken, self._data = bytes(self._data), bytearray()
        return taken


def pack(spool: Spool, jobs: Sequence[JobStatus]) -> Generator[bytes, None, None]:
    """Yield a zip of the results of completed jobs, in parts of about `CHUNK` bytes.

    Pictures are stored as they are: they are compressed already. Raises `NotFound` if a result is
    gone.
    """
    sink = Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        archive.writestr(MANIFEST, manifest(jobs))
        yield sink.take()
        for job in jobs:
            for n, name in enumerate(job.outputs or (), 1):
                entry = zipfile.ZipInfo(f"{job.request_id}-{name}", _date_of(job))
                with open_output(spool, job, n).file as file:
                    entry.file_size = os.fstat(file.fileno()).st_size
                    with archive.open(entry, "w") as packed:
                        while chunk := file.read(CHUNK):
                            packed.write(chunk)
                            yield sink.take()
    yield sink.take()


def _date_of(job: JobStatus) -> tuple[int, int, int, int, int, int]:
    """Return when a job ended, in UTC. A zip knows no time zones, and nothing before 1980."""
    ended = job.completed_at
    assert ended is not None
    return max(ended.utctimetuple()[:6], (1980, 1, 1, 0, 0, 0))


def manifest(jobs: Sequence[JobStatus]) -> bytes:
    """Return the list of the files as CSV, with the mark by which spreadsheets know UTF-8.

    A text that they would take for a formula has an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for job in jobs:
        for index, name in enumerate(job.outputs or ()):
            seed = "" if job.seed is None else (job.seed + index) % (MAX_SEED + 1)
            shown = [_as_text(each or "") for each in (job.name, job.prompt)]
            writer.writerow([job.request_id, *shown, seed, f"{job.request_id}-{name}"])
    return text.getvalue().encode("utf-8-sig", errors="backslashreplace")


def _as_text(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell
