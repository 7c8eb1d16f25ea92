"""Jobs that ended once and have been moved back to `incoming/`, by `retry` or by hand: they begin
anew."""

from contextlib import suppress
from pathlib import Path

from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.spool.durable_io import sync_folder, unlink_if_exists

RETRY = ".retry"


def retry_marker(folder: Path) -> Path:
    """The empty file beside a claimed job which says that the ending it shows is that of an earlier
    life.

    It is made before the job is claimed. Whoever clears the job before it is his may have lost it
    to another worker meanwhile, and would clear what that one writes; and of a job that is cleared
    after it was claimed nobody could tell whether it has just ended, or is about to begin anew, if
    the worker died.
    """
    return folder.with_name(f".{folder.name}{RETRY}")


def is_retry_marker(name: str) -> bool:
    """Whether a name in a worker's folder is that of such a mark."""
    return name.startswith(".") and name.endswith(RETRY) and is_id(name[1 : -len(RETRY)])


def has_ended(folder: Path) -> bool:
    """Whether the job's folder holds the record of an ending, of this life or of an earlier one."""
    return any(ending.exists() for ending in _endings(folder))


def _endings(folder: Path) -> list[Path]:
    return [JobFolder(folder).result, JobFolder(folder).error]


def reset_for_retry(folder: Path) -> None:
    """Make a claimed job that ended once and was moved back to `incoming/` as good as new.

    `mv failed/ID incoming/` is all that a retry is, whoever does it. The ending record is removed
    last: however often whoever clears the folder dies on the way, it shows that it must be cleared.
    """
    endings = _endings(folder)
    if has_ended(folder):
        written = [*JobFolder(folder).attempts(), *folder.glob("result*"), *folder.glob(".*.tmp")]
        hints = [folder / name for name in ("progress.json", "error.txt")]
        if not _is_newer(
            JobFolder(folder).cancel, endings
        ):  # else somebody wants this life to end as well
            hints.append(JobFolder(folder).cancel)
        for path in [*(path for path in written if path not in endings), *hints, *endings]:
            unlink_if_exists(path)
        sync_folder(folder)
    if retry_marker(folder).exists():
        unlink_if_exists(retry_marker(folder))
        sync_folder(
            folder.parent
        )  # before this life can end: with the mark, that ending would not count


def _is_newer(path: Path, others: list[Path]) -> bool:
    """Whether a file was made after others, as far as they exist."""
    with suppress(FileNotFoundError):
        return all(
            path.stat().st_mtime_ns > other.stat().st_mtime_ns for other in others if other.exists()
        )
    return False
