"""The route of thumbnails: small pictures for lists, and views of pictures that browsers cannot
show."""

import asyncio
import logging
import os
from typing import NamedTuple, get_args

from aiohttp import web

from i2ii_spool.errors import (
    DiskFull,
    InvalidRequest,
    NotFound,
    TooManyRequests,
    UnsupportedPicture,
)
from i2ii_spool.images import codec
from i2ii_spool.jobs.ids import check_id
from i2ii_spool.jobs.request import MAX_SIDE
from i2ii_spool.server.auth.access import load_authorized
from i2ii_spool.server.auth.middleware import CALLER
from i2ii_spool.server.conditional import Version, is_not_modified, version_of
from i2ii_spool.server.decoding import DECODER_TURNS
from i2ii_spool.server.query import Parameter, whole_number
from i2ii_spool.server.routes import inputs
from i2ii_spool.server.state import SETTINGS, SPOOL
from i2ii_spool.settings import Settings
from i2ii_spool.spool import thumbnails
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.pictures import OpenPicture, open_input, open_output
from i2ii_spool.spool.status import JobStatus
from i2ii_spool.spool.thumbnails import Of, Thumbnail

log = logging.getLogger(__name__)

MOST_BYTES = {480: 25_000, 1600: 500_000}
"""The sides that are made, in pixels, and the bytes that a thumbnail has at most."""
N = Parameter("n", "Which picture, if there are several.", inputs.N.schema)
OF = Parameter(
    "of",
    "Of a picture of the result, or of the request.",
    {"type": "string", "enum": list(get_args(Of)), "default": "result"},
)
SIDE = Parameter(
    "side",
    "The longer side in pixels. A smaller picture keeps its size.",
    {"type": "integer", "enum": list(MOST_BYTES), "default": 480},
)


class Asked(NamedTuple):
    """A picture that is to be made small."""

    spool: Spool
    job: JobStatus
    of: Of
    n: int
    side: int

    def open(self) -> OpenPicture:
        """Open the picture. Raises what `open_input` and `open_output` raise."""
        if self.of == "input":
            return open_input(self.spool, self.job.request_id, self.n)
        return open_output(self.spool, self.job, self.n)

    def version(self) -> Version:
        """Return the version that the picture has now."""
        with self.open().file as file:
            return version_of(os.fstat(file.fileno()))

    def thumbnail(self, version: Version) -> Thumbnail:
        """Return what the thumbnail of a version shows."""
        return Thumbnail(self.job.request_id, self.of, self.n, self.side, version.tag)


async def thumbnail(request: web.Request) -> web.Response:
    """Fetch a small WebP of a picture.

    It is upright, in sRGB. It is made when it is first asked for, and kept as long as the job.
    """
    id = check_id(request.match_info["id"])
    of, n, side = _of(request), whole_number(request.query, N), _side(request)
    job = await load_authorized(request, id)
    asked = Asked(request.app[SPOOL], job, of, n, side)
    version = await asyncio.to_thread(asked.version)
    shown = version._replace(tag=f"{version.tag}-{side}")
    if is_not_modified(request, shown):
        return web.Response(status=304, headers=shown.headers())
    data = await asyncio.to_thread(thumbnails.read, asked.spool, asked.thumbnail(version))
    if data is None:
        version, data = await _make_in_turn(request, asked)
        shown = version._replace(tag=f"{version.tag}-{side}")
    headers = {
        **shown.headers(),
        "Content-Disposition": f'inline; filename="{id}-{of}-{n}-{side}.webp"',
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(body=data, content_type="image/webp", headers=headers)


def _of(request: web.Request) -> Of:
    named = request.query.get("of", "result")
    for of in get_args(Of):
        if named == of:
            return of  # type: ignore[no-any-return]
    raise InvalidRequest(f"of must be result or input, got {named[:100]!r}", field="of")


def _side(request: web.Request) -> int:
    named = request.query.get("side", "480")
    sides = {str(side): side for side in MOST_BYTES}
    if named not in sides:
        raise InvalidRequest(
            f"side must be {' or '.join(sides)}, got {named[:100]!r}", field="side"
        )
    return sides[named]


async def _make_in_turn(request: web.Request, asked: Asked) -> tuple[Version, bytes]:
    """Make and keep a thumbnail when it is the client's turn at the decoders."""
    settings = request.app[SETTINGS].settings
    made: list[tuple[Version, bytes]] = []
    try:
        await request.app[DECODER_TURNS].run(
            request[CALLER].name, lambda: made.append(_make(asked, settings))
        )
    except TooManyRequests as error:
        raise TooManyRequests(
            "the thumbnail has waited too long for a decoder; request it again later",
            retry_after=error.retry_after,
        ) from None
    return made[0]


def _make(asked: Asked, settings: Settings) -> tuple[Version, bytes]:
    """Return a thumbnail, and the version of the picture that it is of."""
    picture = asked.open()
    with picture.file as file:
        version = version_of(os.fstat(file.fileno()))
        wanted = asked.thumbnail(version)
        # Another request may have made it while this one waited.
        if (data := thumbnails.read(asked.spool, wanted)) is not None:
            return version, data
        try:
            data = codec.thumbnail(
                file,
                picture.name,
                side=asked.side,
                most_bytes=MOST_BYTES[asked.side],
                max_pixels=max(settings.max_pixels, MAX_SIDE**2),
            )
        except InvalidRequest as error:
            raise UnsupportedPicture(f"there is no thumbnail: {error.message}") from error
    _keep(asked.spool, wanted, data, settings.min_free)
    return version, data


def _keep(spool: Spool, wanted: Thumbnail, data: bytes, min_free: int) -> None:
    """Keep a thumbnail if that is possible: the client gets it in any case, unless the job was
    deleted."""
    try:
        thumbnails.keep(spool, wanted, data, min_free=min_free)
    except NotFound:
        raise
    except DiskFull:  # the space is for jobs
        return
    except OSError as error:
        log.warning("a thumbnail is not kept in %s: %s", spool.thumbnails / wanted.id, error)
