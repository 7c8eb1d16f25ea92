"""Submitting: a job is written whole in `.tmp/`, made durable, and appears in `incoming/` by one rename."""

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool import job
from i2ii_spool.errors import DiskFull, InvalidRequest, QueueFull, UnsupportedPicture
from i2ii_spool.job import MAX_IMAGES, EditRequest, Job, new_id, with_name
from i2ii_spool.pictures import inspect
from i2ii_spool.spool import keys
from i2ii_spool.spool.durable import FILE_MODE, sync_file, sync_folder
from i2ii_spool.spool.layout import FOLDER_MODE, Spool
from i2ii_spool.spool.lookup import find


class Submission:
    """A job on its way in: write each picture to an `upload`, then `publish`, or `discard`. Nobody else reads it."""

    def __init__(self, spool: Spool) -> None:
        self.id, self._folder = _stage(spool)
        self._spool = spool
        self._uploads: list[Path] = []

    def upload(self) -> Path:
        """Where to write the next picture, whose format is not known yet. Raises `InvalidRequest` for one too many."""
        check_number(len(self._uploads) + 1)
        self._uploads.append(self._folder / f"upload-{len(self._uploads) + 1}.part")
        return self._uploads[-1]

    def publish(self, request: EditRequest, *, max_pixels: int, key: str | None = None) -> str:
        """Put the job into `incoming/`, durably, and return its id: from here on it is accepted.

        If `key` stands for an earlier job that asks for the same, that job's id is returned, and this one is discarded.
        Raises `InvalidRequest` for what was uploaded.
        """
        pictures = self._receive(max_pixels)
        inputs = tuple(picture.name for picture in pictures)
        record = Job(**request.model_dump(), inputs=inputs, submitted_at=datetime.now(UTC))
        _write_new(self._folder / job.JOB, record.to_json())
        for picture in pictures:
            sync_file(picture)
        sync_folder(self._folder)
        self.id = with_name(self.id, request.name)
        if key is not None:
            stands_for = keys.reserve(self._spool, key, keys.Entry(id=self.id, digest=keys.digest(request, pictures)))
            if stands_for != self.id:
                self.discard()
                return stands_for
        self._rename()
        sync_folder(self._spool.incoming)
        return self.id

    def _receive(self, max_pixels: int) -> list[Path]:
        """Judge what was uploaded and give it its name; return the paths of the pictures."""
        check_number(len(self._uploads))
        pictures = []
        for index, upload in enumerate(self._uploads):
            if upload.stat().st_size == 0:
                raise UnsupportedPicture("image is empty; send the picture's bytes", field="image")
            header = inspect(upload, max_pixels=max_pixels)
            pictures.append(self._folder / input_name(index, header.extension))
            os.rename(upload, pictures[-1])
        return pictures

    def _rename(self) -> None:
        try:
            os.rename(self._folder, self._spool.incoming / self.id)
        except FileNotFoundError:
            find(self._spool, self.id)  # whoever came with the same key has made the rename for us

    def discard(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._folder, ignore_errors=True)  # what stays is swept from .tmp/ later


def check_number(pictures: int) -> None:
    """Raise `InvalidRequest` if a job cannot have so many pictures."""
    if not 1 <= pictures <= MAX_IMAGES:
        raise InvalidRequest(
            f"image is required, at least once and at most {MAX_IMAGES} times; {pictures} were given", field="image"
        )


def input_name(index: int, extension: str) -> str:
    """The name of the picture at `index` (from 0): `input.png`, `input-2.jpg`, `input-3.webp`."""
    return f"input.{extension}" if index == 0 else f"input-{index + 1}.{extension}"


def _stage(spool: Spool) -> tuple[str, Path]:
    while True:
        id = new_id()
        try:
            (spool.staging / id).mkdir()
        except FileExistsError:  # another process drew the same letters in the same millisecond
            continue
        os.chmod(spool.staging / id, FOLDER_MODE)
        return id, spool.staging / id


def _write_new(path: Path, data: bytes) -> None:
    """Write a file of a folder that nobody reads yet: no temporary name is needed."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def submit(spool: Spool, pictures: Sequence[Path], request: EditRequest, *, max_pixels: int) -> str:
    """Copy the pictures and the request into the spool; return the id once the job is durable."""
    submission = Submission(spool)
    try:
        for picture in pictures:
            shutil.copyfile(picture, submission.upload())
        return submission.publish(request, max_pixels=max_pixels)
    except BaseException:
        submission.discard()
        raise


def check_queue(waiting: int, *, max_queue: int, seconds_per_job: float | None) -> None:
    """Raise `QueueFull` if `waiting` jobs are all that may wait; `retry_after` is when a place should be free."""
    if waiting < max_queue:
        return
    jobs_over = waiting - max_queue + 1
    wait = 60 if seconds_per_job is None else min(3600, max(1, round(jobs_over * seconds_per_job)))
    raise QueueFull(f"{waiting} jobs wait, and at most {max_queue} may; try again in {wait} s", retry_after=wait)


def check_disk(spool: Spool, *, min_free: int) -> None:
    """Raise `DiskFull` if less than `min_free` bytes are free."""
    free = free_bytes(spool)
    if free < min_free:
        raise DiskFull(
            f"the spool has {free / 2**20:.0f} MiB free, and keeps {min_free / 2**20:.0f} MiB: "
            "delete finished jobs (i2ii gc) or make the disk larger"
        )


def free_bytes(spool: Spool) -> int:
    """Bytes that this user may still write to the spool's file system."""
    status = os.statvfs(spool.root)
    return status.f_bavail * status.f_frsize
