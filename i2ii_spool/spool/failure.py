"""The record of why a job failed, and which files of a folder only look like records."""

import os
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool.errors import REGISTER, I2iiError, InvalidRequest
from i2ii_spool.jobs.folder import ATTEMPT, JobFolder, read_record
from i2ii_spool.jobs.records import Attempt, Failure, Progress, Record, Result, read_or_none
from i2ii_spool.spool.durable_io import write_file
from i2ii_spool.spool.webhook import Deliveries

_RECORDS: dict[str, type[Record]] = {
    "progress.json": Progress,
    "result.json": Result,
    "error.json": Failure,
    "webhook.json": Deliveries,
}


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
    """Write the file; what a user put under its name is renamed, since it must stay."""
    if os.path.lexists(path) and not _is_record(path):
        path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}"))
    write_file(path, data)


def check_records(folder: Path, names: Iterable[str]) -> None:
    """Raise `InvalidRequest` for a file that has the name of a record and is none: a worker would
    overwrite it."""
    for name in names:
        if _model_of(name) is not None and not _is_record(folder / name):
            raise InvalidRequest(
                f"{name} is a name that i2ii gives to a record, and this file is none; rename it"
            )


def _is_record(path: Path) -> bool:
    model = _model_of(path.name)
    if model is not None:
        return read_or_none(model, path) is not None
    try:
        code = read_record(path).partition(b":")[0].decode(errors="replace")
    except (OSError, InvalidRequest):
        return False
    return code in REGISTER


def _model_of(name: str) -> type[Record] | None:
    if ATTEMPT.fullmatch(name):
        return Attempt
    return _RECORDS.get(name)
