"""Making room: what was deleted, what was never finished being written, and jobs that have been kept long enough."""

import logging
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from i2ii_spool.errors import NotFound, WrongState
from i2ii_spool.jobs.folder import ERROR, RESULT
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.spool.actions import destroy, remove, remove_tree
from i2ii_spool.spool.capacity import free_bytes
from i2ii_spool.spool.durable_io import is_folder
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import ids_in

log = logging.getLogger(__name__)

# An upload that has written nothing for so long is dead; so is the memory that a job was deleted.
STALE_SUBMISSION = 3600.0
GONE_IS_REMEMBERED = 7 * 86400.0
KEY_IS_REMEMBERED = 86400.0


@dataclass(frozen=True)
class Keep:
    """How long ended jobs stay: none older than `age` seconds, at most `jobs`, and until `free` bytes are free.

    None means that this does not limit them.
    """

    age: float | None = None
    jobs: int | None = None
    free: int | None = None


def collect(spool: Spool, keep: Keep) -> list[str]:
    """Delete the ended jobs that `keep` does not keep, the longest ended first; return their ids."""
    sweep(spool)
    ended = sorted(_ended(spool))
    now = time.time()
    removed: list[str] = []
    for index, (ended_at, id) in enumerate(ended):
        is_old = keep.age is not None and now - ended_at > keep.age
        is_over = keep.jobs is not None and len(ended) - index > keep.jobs
        is_in_the_way = keep.free is not None and free_bytes(spool) < keep.free
        if not (is_old or is_over or is_in_the_way):
            break
        with suppress(NotFound, WrongState):  # somebody has deleted it, or sent it back to the queue
            remove(spool, id)
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
    for record in (RESULT, ERROR):
        with suppress(FileNotFoundError):
            return (folder / record).stat().st_mtime
    return folder.stat().st_mtime


def sweep(spool: Spool) -> None:
    """Finish deletions that were cut short, and clear away submissions whose writers have died."""
    for folder, clear in ((spool.trash, _clear_trash), (spool.keys, _clear_key), (spool.staging, _clear_staged)):
        for path in folder.iterdir():
            try:
                clear(path)
            except FileNotFoundError:  # somebody else sweeps as well, or it has just been published
                continue
            except OSError as error:
                log.warning("%s cannot be removed: %s", path, error)


def _clear_trash(path: Path) -> None:
    if not is_folder(path):
        _clear_if_older(path, GONE_IS_REMEMBERED)
    elif is_id(path.name):
        destroy(path)
    else:
        remove_tree(path)


def _clear_key(path: Path) -> None:
    _clear_if_older(path, KEY_IS_REMEMBERED)


def _clear_if_older(path: Path, seconds: float) -> None:
    if _age(path) > seconds:
        path.unlink()


def _clear_staged(path: Path) -> None:
    if not is_folder(path):
        _clear_if_older(path, STALE_SUBMISSION)
    elif min(_age(each) for each in (path, *path.iterdir())) > STALE_SUBMISSION:
        log.warning("removing .tmp/%s: nothing was written to it for an hour", path.name)
        shutil.rmtree(path)


def _age(path: Path) -> float:
    """Seconds since the entry last changed in any way."""
    return time.time() - path.lstat().st_ctime
