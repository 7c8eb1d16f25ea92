"""An OpenAI request as ours, and a job as OpenAI's answer."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from aiohttp import web

from i2ii_spool.errors import (
    REGISTER,
    Cancelled,
    EngineError,
    I2iiError,
    InvalidRequest,
    JobFailed,
    ModelNotFound,
)
from i2ii_spool.jobs.request import EditRequest, parse
from i2ii_spool.server.auth.middleware import AUTH
from i2ii_spool.server.openai.schemas import DRAWN_SEED, IGNORED, OURS, QUALITY_PRESETS, ImageEdit
from i2ii_spool.spool.liveness import WorkerView
from i2ii_spool.spool.status import JobStatus

COMPLETED = "image_edit.completed"
NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""The type of the event requires it; nothing is billed here."""


@dataclass(frozen=True)
class Asked:
    """A request in both languages."""

    edit: EditRequest
    image_edit: ImageEdit
    ignored: tuple[str, ...]
    """The fields that had no effect."""


def asked(
    form: Mapping[str, str], workers: Sequence[WorkerView], aliases: Collection[str]
) -> Asked:
    """Return what a form asks for. Raises `InvalidRequest` that names the field at fault, and
    `ModelNotFound`."""
    theirs = parse(ImageEdit, {name: text for name, text in form.items() if name not in OURS})
    check_model(theirs.model, workers, aliases)
    ignored = [name for name in IGNORED if name in form]
    ours = {name: text for name, text in form.items() if name in OURS}
    ours = {"seed": str(DRAWN_SEED), **ours, "output_format": theirs.output_format}
    preset = QUALITY_PRESETS.get(theirs.quality)
    if preset is not None and any(worker.status.engine == "classic" for worker in workers):
        ignored.append("quality")  # it has no presets
    elif preset is not None:
        ours.setdefault("preset", preset)
    if theirs.partial_images:
        ignored.append("partial_images")
    return Asked(parse(EditRequest, ours), theirs, tuple(sorted(ignored)))


def models(workers: Sequence[WorkerView]) -> list[str]:
    """Return the names of the models that run."""
    return sorted({worker.status.model for worker in workers if worker.alive})


def check_model(name: str, workers: Sequence[WorkerView], aliases: Collection[str]) -> None:
    """Raise `ModelNotFound` for a name that is neither a model that runs nor an alias."""
    served = models(workers)
    if name and name not in served and not any(fnmatchcase(name, alias) for alias in aliases):
        known = ", ".join([*served, *aliases])
        raise ModelNotFound(f"there is no model {name[:100]}; there are {known}", field="model")


def about(job: JobStatus, image_edit: ImageEdit) -> dict[str, Any]:
    """Return what an answer says besides its pictures."""
    return {"created": _ended_at(job), **_shape(job, image_edit)}


def with_urls(request: web.Request, job: JobStatus, image_edit: ImageEdit) -> dict[str, Any]:
    """Return an answer with the URLs of the pictures."""
    scheme = request.app[AUTH].proxies.scheme(request)
    base = f"{scheme}://{request.host}/result/{job.request_id}"
    count = len(job.outputs or ())
    urls = [base, *(f"{base}?n={n}" for n in range(2, count + 1))]
    return {**about(job, image_edit), "data": [{"url": url} for url in urls]}


def of_event(job: JobStatus, image_edit: ImageEdit) -> dict[str, Any]:
    """Return what the event of a picture says besides it."""
    shape = _shape(job, image_edit)
    return {"type": COMPLETED, "created_at": _ended_at(job), **shape, "usage": NO_USAGE}


def _ended_at(job: JobStatus) -> int:
    """Return when a job ended, in seconds since 1970."""
    assert job.completed_at is not None
    return int(job.completed_at.timestamp())


def _shape(job: JobStatus, image_edit: ImageEdit) -> dict[str, str]:
    return {
        "background": "opaque",
        "output_format": image_edit.output_format,
        "quality": image_edit.quality,
        "size": f"{job.width}x{job.height}",
    }


def failure(job: JobStatus) -> I2iiError:
    """Return the error of a job that ended without a picture: the client's fault, or ours."""
    error = job.error or {}
    code, message, field = (error.get(name) for name in ("code", "message", "field"))
    kind = REGISTER.get(str(code), EngineError)
    if issubclass(kind, Cancelled):
        return JobFailed(f"job {job.request_id} was cancelled", code=Cancelled.code)
    if not issubclass(kind, InvalidRequest):
        kind = EngineError
    failed = kind(str(message), field=field)
    failed.code = str(code)
    return failed
