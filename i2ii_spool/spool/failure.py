"""The record of why a job failed."""

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
    """Write `error.txt` for people, then `error.json`, whose presence means that the job failed."""
    write_error_text(folder, error, trace)
    now = datetime.now(UTC)
    failure = Failure(**error.to_dict(), attempt=attempt, worker=worker, failed_at=now)
    _write_record(JobFolder(folder).error, failure.to_json())


def write_error_text(folder: Path, error: I2iiError, trace: str = "") -> None:
    """Write `error.txt`: code, message and, if there is one, the traceback."""
    text = f"{error.code}: {error.message}\n"
    if trace:
        text += f"\n{trace}"
    _write_record(JobFolder(folder).error_text, text.encode(errors="backslashreplace"))


def _write_record(path: Path, data: bytes) -> None:
    """Write the file; a folder that a user put under its name is renamed, since it must stay."""
    if is_folder(path):
        path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}"))
    write_file(path, data)
