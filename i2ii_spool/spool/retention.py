"""Making room: what was deleted, what was never finished being written, and jobs that have been
kept long enough."""

import logging
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from i2ii_spool.errors import NotFound, WrongState
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.spool.actions import delete_job, delete_trashed, delete_tree
from i2ii_spool.spool.capacity import free_bytes
from i2ii_spool.spool.durable_io import is_folder
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import ids_in

log = logging.getLogger(__name__)

# An upload that has written nothing for so long is dead; so is the memory that a job was deleted.
STALE_SUBMISSION_SECONDS = 3600.0
TOMBSTONE_SECONDS = 7 * 86400.0
KEY_SECONDS = 86400.0


@dataclass(frozen=True)
class RetentionPolicy:
    """How long ended jobs stay: none older than `age` seconds, at most `jobs`, and until `free`
    bytes are free.

    None means that this does not limit them.
    """

    age: float | None = None
    jobs: int | None = None
    free: int | None = None


def prune(spool: Spool, policy: RetentionPolicy) -> list[str]:
    """Delete the ended jobs that `policy` does not policy, the longest ended first; return their
    ids."""
    sweep(spool)
    ended = sorted(_ended(spool))
    now = time.time()
    removed: list[str] = []
    for index, (ended_at, id) in enumerate(ended):
        is_old = policy.age is not None and now - ended_at > policy.age
        is_over = policy.jobs is not None and len(ended) - index > policy.jobs
        is_in_the_way = policy.free is not None and free_bytes(spool) < policy.free
        if not (is_old or is_over or is_in_the_way):
            break
        with suppress(
            NotFound, WrongState
        ):  # somebody has deleted it, or sent it back to the queue
            delete_job(spool, id)
            removed.append(id)
    return removed


def _ended(spool: Spool) -> list[tuple[float, str]]:
    """When each job in `done/` and `failed/` ended, and its id."""
    ended = []
    for folder in (spool.done, spool.failed):
        for id in ids_in(folder):
            with suppress(FileNotFoundError):
                ended.append((_ended_at(folder / id), id))
    return ended


def _ended_at(folder: Path) -> float:
    job = JobFolder(folder)
    for record in (job.result, job.error):
        with suppress(FileNotFoundError):
            return record.stat().st_mtime
    return folder.stat().st_mtime


def sweep(spool: Spool) -> None:
    """Finish deletions that were cut short, and clear away submissions whose writers have died."""
    for folder, sweep_entry in (
        (spool.trash, _sweep_trash),
        (spool.keys, _sweep_key),
        (spool.staging, _sweep_staged),
    ):
        for path in folder.iterdir():
            try:
                sweep_entry(path)
            except FileNotFoundError:  # somebody else sweeps as well, or it has just been published
                continue
            except OSError as error:
                log.warning("%s cannot be removed: %s", path, error)


def _sweep_trash(path: Path) -> None:
    if not is_folder(path):
        _unlink_if_older(path, TOMBSTONE_SECONDS)
    elif is_id(path.name):
        delete_trashed(path)
    else:
        delete_tree(path)


def _sweep_key(path: Path) -> None:
    _unlink_if_older(path, KEY_SECONDS)


def _unlink_if_older(path: Path, seconds: float) -> None:
    if _age(path) > seconds:
        path.unlink()


def _sweep_staged(path: Path) -> None:
    if not is_folder(path):
        _unlink_if_older(path, STALE_SUBMISSION_SECONDS)
    elif min(_age(each) for each in (path, *path.iterdir())) > STALE_SUBMISSION_SECONDS:
        log.warning("removing .tmp/%s: nothing was written to it for an hour", path.name)
        shutil.rmtree(path)


def _age(path: Path) -> float:
    """Seconds since the entry last changed in any way."""
    return time.time() - path.lstat().st_ctime
