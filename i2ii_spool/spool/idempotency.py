"""Idempotency keys: a client that sends a job again, after a lost answer, gets the same job.

`.keys/<hash of the key>` records which job the key stands for. It is written once the job is in
`.tmp/`, whole and durable, just before the rename that publishes it. If the submitter dies between
the two, the next submit with the key makes the rename in its place, so that one key never makes two
jobs. A record is never overwritten: when its job has been deleted, the key together with the id of
that job is the key of the next job.
"""

import errno
import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel

from i2ii_spool.errors import (
    Cancelled,
    IdempotencyKeyReused,
    InvalidRequest,
    NotFound,
    SpoolUnusable,
)
from i2ii_spool.host.filesystems import file_system_of
from i2ii_spool.jobs.folder import JobFolder, read_record
from i2ii_spool.jobs.ids import age_of, without_name
from i2ii_spool.jobs.records import Failure, read_or_none
from i2ii_spool.jobs.request import EditRequest, Job, parse_json
from i2ii_spool.spool.durable_io import move, sync_folder, write_new
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import find, list_jobs

MAX_KEY_LENGTH = 255
TWIN_SECONDS = 3600.0
MAX_TWINS = 1000
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
FIELDS = set(EditRequest.model_fields)


class KeyRecord(BaseModel):
    """What a key stands for: a job, and the digest of all that was asked for."""

    id: str
    digest: str


def check_key(key: str) -> str:
    """Return the key, or raise `InvalidRequest`."""
    if not (1 <= len(key) <= MAX_KEY_LENGTH and key.isascii()):
        raise InvalidRequest(
            f"Idempotency-Key must be 1 to {MAX_KEY_LENGTH} ASCII characters",
            field="Idempotency-Key",
        )
    return key


def reserve(spool: Spool, owner: str, key: str, record: KeyRecord) -> str:
    """Return the id of the job that the owner's `key` stands for: that of `record` if it is new.

    Another job that is returned is published. Raises `IdempotencyKeyReused` if the key stands for
    another request, and `SpoolUnusable` if the file system has no hard links.
    """
    chain = f"{owner}\n{key}"
    while not _write_once(path := spool.keys / hashlib.sha256(chain.encode()).hexdigest(), record):
        earlier = KeyRecord.model_validate_json(path.read_bytes())
        if earlier.digest != record.digest:
            raise IdempotencyKeyReused(
                f"this Idempotency-Key was used for another request, job {earlier.id}; "
                "use a new key for a new request",
                field="Idempotency-Key",
            )
        if _is_published(spool, earlier.id):
            return earlier.id
        os.utime(path)  # refresh the mtime, or `sweep` deletes this link of the chain
        chain = f"{owner}\n{key}\n{earlier.id}"
    return record.id


def job_of(path: Path) -> str:
    """Return the id of the job that a record in `.keys/` names. Raises `ValueError`."""
    return KeyRecord.model_validate_json(path.read_bytes()).id


def _write_once(path: Path, record: KeyRecord) -> bool:
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_new(str(temp), record.model_dump_json().encode())
    try:
        _link(temp, path)
        sync_folder(path.parent)
    except FileExistsError:
        return False
    finally:
        temp.unlink()
    return True


def _link(source: Path, target: Path) -> None:
    """Give a file a second name. Unlike rename, this fails where the name exists."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        raise SpoolUnusable(
            f"an Idempotency-Key needs a hard link, and {file_system_of(target.parent)} makes none "
            f"({error.strerror}): send the job without the key, or move the spool",
            field="Idempotency-Key",
        ) from error


def _is_published(spool: Spool, id: str) -> bool:
    """Whether the job is there; a job that its submitter left in `.tmp/` is published first."""
    try:
        move(spool.staging / without_name(id), spool.incoming / id)
        return True
    except FileNotFoundError:  # the rule: its submitter has published it
        pass
    try:
        find(spool, id)
    except NotFound:
        return False
    return True


@dataclass(frozen=True)
class Asked:
    """All that is asked for."""

    request: EditRequest
    pictures: Sequence[Path]
    """The inputs and, if `has_mask`, the mask behind them."""
    has_mask: bool = False

    @cached_property
    def digest(self) -> str:
        """The digest of it. It reads the pictures."""
        whole = hashlib.sha256(self.request.model_dump_json().encode())
        for picture in self.pictures:
            with picture.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        if self.has_mask:
            whole.update(b"mask")
        return whole.hexdigest()


def find_twin(spool: Spool, owner: str, asked: Asked) -> str | None:
    """Return the newest of the owner's jobs that asks for exactly this, is younger than
    `TWIN_SECONDS`, and was not cancelled.

    It is looked for where a client repeats a request that had no key: that costs reading the jobs.
    """
    for place in list_jobs(spool, limit=MAX_TWINS):
        if age_of(place.id) > TWIN_SECONDS:
            return None
        if place.state is State.FAILED and _was_cancelled(place.folder):
            continue
        with suppress(OSError, InvalidRequest):  # it has moved on, or is not a server's
            job = parse_json(Job, read_record(JobFolder(place.folder).job))
            request, pictures = asked.request, [place.folder / name for name in job.pictures]
            twin = Asked(request, pictures, has_mask=bool(job.mask))
            same = job.owner == owner and job.model_dump(include=FIELDS) == request.model_dump()
            same = same and list(map(_size, pictures)) == list(map(_size, asked.pictures))
            if same and twin.digest == asked.digest:
                return place.id
    return None


def _was_cancelled(folder: Path) -> bool:
    """Whether a job in `failed/` was cancelled. A canceller that dies leaves no record."""
    record = read_or_none(Failure, JobFolder(folder).error)
    return record is None or record.code == Cancelled.code


def _size(path: Path) -> int:
    return path.stat().st_size
