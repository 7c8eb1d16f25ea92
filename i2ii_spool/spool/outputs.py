"""The pictures of a result: their names, and which of those in a folder a worker has written.

A user's folder may hold a `result.png`: the picture to edit, or the result of an earlier edit. The
first attempt at a job records which names like a result's are there (`Attempt.kept`). A worker
writes, overwrites and removes other names only.
"""

import os
from collections.abc import Collection
from pathlib import Path

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.folder import MAX_OUTPUT_NAMES, RESULT_PICTURE, JobFolder, output_name
from i2ii_spool.jobs.records import Attempt, Result, read_or_none
from i2ii_spool.jobs.request import Job
from i2ii_spool.spool.durable_io import unlink_if_exists


def output_names(count: int, output_format: str, *, taken: Collection[str]) -> list[str]:
    """Return names for `count` pictures, none of them in `taken`.

    Raises `InvalidRequest` if a user's files have the names.
    """
    names = [output_name(index, output_format) for index in range(MAX_OUTPUT_NAMES)]
    free = [name for name in names if name not in taken]
    if len(free) < count:
        raise InvalidRequest(
            f"the folder has files called {names[0]} to {names[-1]}, so that {count} results have "
            "no name; rename those files",
            field="inputs",
        )
    return free[:count]


def users_pictures(job: JobFolder) -> tuple[str, ...]:
    """Return the names like a result's in the folder that are a user's, and no worker's."""
    attempts = job.attempts()
    if attempts:
        record = read_or_none(Attempt, attempts[-1])
        return record.kept if record is not None else _pictures(job.path)
    return _pictures(job.path)


def workers_pictures(job: JobFolder) -> set[str]:
    """Return the names of the pictures in the folder that a worker has written.

    `result.json` names them; without it, the attempts have left all that is not the user's. What
    the request names as its inputs is the user's; if the request cannot be read, nothing is known
    to be a worker's.
    """
    request = read_or_none(Job, job.job)
    if request is None:
        return set()
    result = read_or_none(Result, job.result)
    written = result.outputs if result is not None else _pictures(job.path)
    kept = () if result is not None else users_pictures(job)
    return set(written) - set(kept) - set(request.pictures)


def remove_pictures(job: JobFolder) -> None:
    """Remove the pictures that a worker has written."""
    for name in workers_pictures(job):
        unlink_if_exists(job.path / name)


def _pictures(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(name for name in os.listdir(folder) if RESULT_PICTURE.fullmatch(name)))
