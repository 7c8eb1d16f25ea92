"""Writing down why a job failed."""

import secrets
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool.errors import I2iiError
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.records import Failure
from i2ii_spool.spool.durable_io import is_folder, write_file


def write_failure(
    folder: Path, error: I2iiError, *, attempt: int = 0, worker: str | None = None, trace: str = ""
) -> None:
    """Write `error.txt` for people, then `error.json`, whose presence means that the job has
    failed."""
    write_error_text(folder, error, trace)
    failure = Failure(
        **error.to_dict(), attempt=attempt, worker=worker, failed_at=datetime.now(UTC)
    )
    _make_way(JobFolder(folder).error)
    write_file(JobFolder(folder).error, failure.to_json())


def write_error_text(folder: Path, error: I2iiError, trace: str = "") -> None:
    """Write `error.txt`."""
    text = f"{error.code}: {error.message}\n"
    if trace:
        text += f"\n{trace}"
    _make_way(JobFolder(folder).error_text)
    write_file(JobFolder(folder).error_text, text.encode(errors="backslashreplace"))


def _make_way(path: Path) -> None:
    """Move a folder aside that somebody has put where a record must go; a file would be replaced, a
    folder is not."""
    if is_folder(path):
        path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}"))
