"""The route that says what a client may ask for."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from aiohttp import web

from i2ii_spool import __version__
from i2ii_spool.jobs.offers import Offers
from i2ii_spool.server.answers import CallerView, EngineView, LimitsView, Options
from i2ii_spool.server.auth.middleware import CALLER, Caller
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.openapi import edit_fields
from i2ii_spool.server.state import SETTINGS, WORKERS
from i2ii_spool.spool.liveness import WorkerView, max_images


async def options(request: web.Request) -> web.Response:
    """Read what may be asked for.

    The fields of an edit with their limits, and the instructions and presets of the engines.
    """
    settings, caller = request.app[SETTINGS].settings, request[CALLER]
    workers = await request.app[WORKERS].get()
    answer = Options(
        version=__version__,
        caller=_view_of(caller, has_token=settings.auth_required),
        limits=LimitsView(
            max_bytes=settings.max_bytes,
            max_pixels=settings.max_pixels,
            max_images=max_images(workers),
            max_queue=settings.max_queue,
            client_max_uploads=settings.client_max_uploads,
        ),
        fields=edit_fields(),
        engines=tuple(_engines(workers)),
    )
    return json_response(answer.to_dict())


def _view_of(caller: Caller, *, has_token: bool) -> CallerView:
    return CallerView(name=caller.name, is_operator=caller.may_change_all, has_token=has_token)


def _engines(workers: Sequence[WorkerView]) -> Iterator[EngineView]:
    """Yield each engine and model that runs, with what all its workers offer."""
    offered: dict[tuple[str, str], list[Offers]] = defaultdict(list)
    for worker in workers:
        if worker.alive:
            named = (worker.status.engine, worker.status.model)
            offered[named].append(worker.status.offers or Offers())
    for (engine, model), offers in sorted(offered.items()):
        instructions = dict.fromkeys(one for each in offers for one in each.instructions)
        presets = dict.fromkeys(name for each in offers for name in each.presets)
        yield EngineView(
            engine=engine, model=model, instructions=tuple(instructions), presets=tuple(presets)
        )
