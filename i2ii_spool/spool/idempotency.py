"""Idempotency keys: a client that sends a job again, after a lost answer, gets the same job.

`.keys/<hash of the key>` records which job the key stands for. It is written once the job is in
`.tmp/`, whole and durable, just before the rename that publishes it. If the submitter dies between
the two, the next submit with the key makes the rename in its place, so that one key never makes two
jobs. A record is never overwritten: when its job has been deleted, the key together with the id of
that job is the key of the next job.
"""

import hashlib
import os
import secrets
from pathlib import Path

from pydantic import BaseModel

from i2ii_spool.errors import IdempotencyKeyReused, InvalidRequest, NotFound
from i2ii_spool.jobs.ids import without_name
from i2ii_spool.spool.durable_io import move, sync_folder, write_new
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import find

MAX_KEY_LENGTH = 255


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
    another request.
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


def _write_once(path: Path, record: KeyRecord) -> bool:
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_new(str(temp), record.model_dump_json().encode())
    try:
        os.link(temp, path)  # unlike rename, link fails where the name exists
        sync_folder(path.parent)
    except FileExistsError:
        return False
    finally:
        temp.unlink()
    return True


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


def digest(request: BaseModel, pictures: list[Path]) -> str:
    """Return the digest of all that is asked for."""
    whole = hashlib.sha256(request.model_dump_json().encode())
    for picture in pictures:
        with picture.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
