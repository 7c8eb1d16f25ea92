"""Retention: prune the jobs that were kept long enough, and sweep what was left unfinished."""

import logging
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from i2ii_spool.errors import NotFound, WrongState
from i2ii_spool.jobs.folder import JobFolder, retry_stale
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.spool import thumbnails
from i2ii_spool.spool.actions import (
    StillOpen,
    delete_job,
    delete_trashed,
    delete_tree,
    discard_staged,
)
from i2ii_spool.spool.capacity import free_bytes
from i2ii_spool.spool.durable_io import is_folder
from i2ii_spool.spool.idempotency import job_of
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import find, ids_in
from i2ii_spool.spool.webhook import awaits_delivery

log = logging.getLogger(__name__)

STALE_SUBMISSION_SECONDS = 3600.0
"""An upload that has written nothing for so long is dead."""
TOMBSTONE_SECONDS = 7 * 86400.0
"""For so long a deleted job answers 410, and then 404."""
KEY_SECONDS = 86400.0

DISCARDED = re.compile(r"\.[0-9a-f]{16}")
KEY_FILE = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.[0-9a-f]{8}")
PROBE = re.compile(r"\.?(\.health|\.(doctor|clock)-[0-9a-f]{8})(\.[0-9a-f]{8}\.tmp)?")
"""Files that are written to see whether that is possible, and what time it is."""


CLOCK_OFFSET = time.time() - time.monotonic()


def _now() -> float:
    """The time of day by a clock that nothing sets while this process runs.

    When the clock of the machine jumps forward (at boot, in a virtual machine that wakes), nothing
    that was written before is older for it.
    """
    return CLOCK_OFFSET + time.monotonic()


@dataclass(frozen=True)
class RetentionPolicy:
    """How long ended jobs stay. None means no limit."""

    age: float | None = None
    """Seconds since the end; older jobs are pruned."""
    jobs: int | None = None
    """At most this many are kept."""
    free: int | None = None
    """Jobs are pruned until this many bytes are free."""


def prune(spool: Spool, policy: RetentionPolicy) -> list[str]:
    """Delete the ended jobs that `policy` does not keep, oldest first; return their ids.

    One whose webhook is still to be told stays.
    """
    sweep(spool)
    ended = sorted(_ended(spool))
    now = _now()
    pruned: list[str] = []
    for index, (ended_at, id) in enumerate(ended):
        is_old = policy.age is not None and now - ended_at > policy.age
        is_over = policy.jobs is not None and len(ended) - index > policy.jobs
        needs_space = policy.free is not None and free_bytes(spool) < policy.free
        if not (is_old or is_over or needs_space):
            break
        with suppress(NotFound, WrongState):  # it was deleted or retried meanwhile
            if awaits_delivery(find(spool, id).folder):
                continue
            delete_job(spool, id)
            pruned.append(id)
    return pruned


def _ended(spool: Spool) -> list[tuple[float, str]]:
    """When each job in `done/` and `failed/` ended, and its id."""
    ended = []
    for folder in (spool.done, spool.failed):
        for id in ids_in(folder):
            with suppress(FileNotFoundError, PermissionError):
                job = JobFolder(folder / id)
                ended.append((retry_stale(partial(_ended_at, job)), id))
    return ended


def _ended_at(job: JobFolder) -> float:
    for record in (job.result, job.error):
        with suppress(FileNotFoundError):
            return record.stat().st_mtime
    return job.path.stat().st_mtime


def sweep(spool: Spool) -> None:
    """Finish deletions that were interrupted, and remove what dead writers have left."""
    sweepers = (
        (spool.trash, _sweep_trash),
        (spool.keys, partial(_sweep_key, spool)),
        (spool.staging, _sweep_staged),
        (spool.thumbnails, partial(_sweep_thumbnails, spool)),
    )
    for folder, sweep_entry in sweepers:
        for path in _entries(folder):
            try:
                sweep_entry(path)
            except FileNotFoundError:  # another process sweeps too, or it was just published
                continue
            except StillOpen:  # a later sweep finds it closed
                continue
            except OSError as error:
                log.warning("%s cannot be removed: %s", path, error)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:  # a spool of a version without this folder
        return []


# Each removes what i2ii has put there, by its exact name. A user's file stays.


def _sweep_trash(path: Path) -> None:
    if is_id(path.name.removesuffix(".gone")) and not is_folder(path):
        _unlink_if_older(path, TOMBSTONE_SECONDS)
    elif is_id(path.name):
        delete_trashed(path)
    elif DISCARDED.fullmatch(path.name):
        delete_tree(path)


def _sweep_key(spool: Spool, path: Path) -> None:
    if KEY_FILE.fullmatch(path.name) and _age(path) > KEY_SECONDS and not _is_open(spool, path):
        path.unlink()


def _is_open(spool: Spool, key: Path) -> bool:
    """Whether the job that a key stands for waits or runs: it is kept as long."""
    try:
        return find(spool, job_of(key)).state in (State.INCOMING, State.RUNNING)
    except (NotFound, ValueError):
        return False


def _sweep_thumbnails(spool: Spool, path: Path) -> None:
    if is_id(path.name) and not _has_folder(spool, path.name):
        try:
            find(spool, path.name)
        except NotFound:
            thumbnails.delete(spool, path.name)


def _has_folder(spool: Spool, id: str) -> bool:
    """Whether a job has ended and is there: most of those with thumbnails."""
    return (spool.done / id).exists() or (spool.failed / id).exists()


def _sweep_staged(path: Path) -> None:
    if PROBE.fullmatch(path.name) or thumbnails.TEMP.fullmatch(path.name):
        _unlink_if_older(path, STALE_SUBMISSION_SECONDS)
    elif DISCARDED.fullmatch(path.name):
        delete_tree(path)
    elif not (is_id(path.name) and is_folder(path)):
        return
    elif min(_age(each) for each in (path, *path.iterdir())) > STALE_SUBMISSION_SECONDS:
        log.warning("removing .tmp/%s: nothing was written to it for an hour", path.name)
        discard_staged(path)


def _unlink_if_older(path: Path, seconds: float) -> None:
    if _age(path) > seconds:
        path.unlink()


def _age(path: Path) -> float:
    """Seconds since the entry last changed in any way."""
    return _now() - path.lstat().st_ctime
