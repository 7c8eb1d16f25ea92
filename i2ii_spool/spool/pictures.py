"""Open the pictures of a job, wherever it is: it may move at any moment."""

from io import BufferedReader
from typing import NamedTuple

from i2ii_spool.errors import InvalidRequest, NotFound
from i2ii_spool.jobs.folder import JobFolder, open_regular
from i2ii_spool.jobs.records import read_or_none
from i2ii_spool.jobs.request import Job
from i2ii_spool.spool.durable_io import is_folder
from i2ii_spool.spool.job_request import pictures_of
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import JobLocation, find
from i2ii_spool.spool.status import READS, JobStatus, no_result, no_such_picture


class OpenPicture(NamedTuple):
    """A file of a job, open. It stays readable when the job moves, and when it is deleted."""

    file: BufferedReader
    name: str
    """In the job folder."""


def open_input(spool: Spool, id: str, n: int) -> OpenPicture:
    """Open picture `n` (from 1) of the request of a job. Raises `NotFound`, or `Deleted`."""
    for _ in range(READS):
        location = find(spool, id)
        try:
            return _open_input(location, n)
        except (FileNotFoundError, NotFound, InvalidRequest) as error:
            if is_folder(location.folder):
                said = str(error) if isinstance(error, NotFound) else f"job {id} lost a picture"
                raise NotFound(said) from None
    raise NotFound(f"job {id} changed state while it was read; try again")


def _open_input(location: JobLocation, n: int) -> OpenPicture:
    job = JobFolder(location.folder)
    record = read_or_none(Job, job.job)
    names, _mask = ((), "") if record is None else pictures_of(job, record)
    if n > len(names):
        raise NotFound(f"job {job.id} has {len(names)} pictures; there is no n={n}")
    return OpenPicture(open_regular(job.path / names[n - 1]), names[n - 1])


def open_output(spool: Spool, job: JobStatus, n: int) -> OpenPicture:
    """Open picture `n` (from 1) of the result of a job.

    Raises `WrongState` for a job that has none, `NotFound`, or `Deleted`.
    """
    if job.status != "completed":
        raise no_result(job)
    outputs, id = job.outputs or (), job.request_id
    if n > len(outputs):
        raise no_such_picture(job, n)
    name = outputs[n - 1]
    try:
        return OpenPicture(open_regular(spool.done / id / name), name)
    except (FileNotFoundError, InvalidRequest):
        find(spool, id)  # raises `Deleted` if that is why
        raise NotFound(f"job {id} no longer has its {name}") from None
