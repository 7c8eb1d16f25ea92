"""Submitting: a job is written whole in `.tmp/`, made durable, and appears in `incoming/` by one
rename."""

import os
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool.errors import InvalidRequest, UnsupportedPicture
from i2ii_spool.images.probe import inspect_file
from i2ii_spool.jobs.folder import JOB, open_regular
from i2ii_spool.jobs.ids import new_id, with_name
from i2ii_spool.jobs.request import MAX_IMAGES, EditRequest, Job
from i2ii_spool.spool import idempotency
from i2ii_spool.spool.durable_io import create_file, move, sync_folder, write_new
from i2ii_spool.spool.layout import Spool, make_folder
from i2ii_spool.spool.lookup import find

COPIED_AT_ONCE = 2**30


class Submission:
    """A job on its way in: write each picture to an `upload`, then `publish`, or `discard`. Nobody
    else reads it."""

    def __init__(self, spool: Spool) -> None:
        self.id, self._folder = _stage(spool)
        self._spool = spool
        self._uploads: list[str] = []

    def upload(self) -> str:
        """Where to write the next picture, whose format is not known yet. Raises `InvalidRequest`
        for one too many."""
        check_number(len(self._uploads) + 1)
        self._uploads.append(f"{self._folder}/upload-{len(self._uploads) + 1}.part")
        return self._uploads[-1]

    def publish(
        self, request: EditRequest, *, max_pixels: int, key: str | None = None, owner: str = ""
    ) -> str:
        """Put the job into `incoming/`, durably, and return its id: from here on it is accepted.

        If the owner's `key` stands for an earlier job that asks for the same, that job's id is
        returned, and this one is discarded. Raises `InvalidRequest` for what was uploaded.
        """
        check_number(len(self._uploads))
        inputs = tuple(
            self._receive(index, upload, max_pixels) for index, upload in enumerate(self._uploads)
        )
        # It is valid already, and to look at each field again costs as much as reading the
        # picture's header.
        record = Job.model_construct(
            request.model_fields_set,
            **dict(request),
            inputs=inputs,
            submitted_at=datetime.now(UTC),
            owner=owner,
        )
        write_new(f"{self._folder}/{JOB}", record.to_json())
        sync_folder(self._folder)
        self.id = with_name(self.id, request.name)
        if key is not None:
            stands_for = idempotency.reserve(self._spool, owner, key, self._entry(request, inputs))
            if stands_for != self.id:
                self.discard()
                return stands_for
        self._move()
        return self.id

    def _receive(self, index: int, upload: str, max_pixels: int) -> str:
        """Judge a picture that was uploaded, make it durable under its name, and return that."""
        with open_regular(upload) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UnsupportedPicture("image is empty; send the picture's bytes", field="image")
            name = input_name(index, inspect_file(file, max_pixels=max_pixels).extension)
            os.rename(upload, f"{self._folder}/{name}")
            os.fsync(file.fileno())
        return name

    def _entry(self, request: EditRequest, inputs: Iterable[str]) -> idempotency.KeyRecord:
        return idempotency.KeyRecord(
            id=self.id,
            digest=idempotency.digest(request, [Path(self._folder, name) for name in inputs]),
        )

    def _move(self) -> None:
        try:
            move(Path(self._folder), self._spool.incoming / self.id)
        except FileNotFoundError:
            find(self._spool, self.id)  # whoever came with the same key has made the rename for us

    def discard(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._folder, ignore_errors=True)  # what stays is swept from .tmp/ later


def check_number(pictures: int) -> None:
    """Raise `InvalidRequest` if a job cannot have so many pictures."""
    if not 1 <= pictures <= MAX_IMAGES:
        raise InvalidRequest(
            f"image is required, at least once and at most {MAX_IMAGES} times; {pictures} were given",
            field="image",
        )


def input_name(index: int, extension: str) -> str:
    """The name of the picture at `index` (from 0): `input.png`, `input-2.jpg`, `input-3.webp`."""
    return f"input.{extension}" if index == 0 else f"input-{index + 1}.{extension}"


def _stage(spool: Spool) -> tuple[str, str]:
    while True:
        id = new_id()
        folder = f"{spool.staging}/{id}"
        try:
            make_folder(folder)
        except FileExistsError:  # another process drew the same letters in the same millisecond
            continue
        return id, folder


def submit(spool: Spool, pictures: Sequence[Path], request: EditRequest, *, max_pixels: int) -> str:
    """Copy the pictures and the request into the spool; return the id once the job is durable."""
    submission = Submission(spool)
    try:
        for picture in pictures:
            _copy(picture, submission.upload())
        return submission.publish(request, max_pixels=max_pixels)
    except BaseException:
        submission.discard()
        raise


def _copy(source: Path, target: str) -> None:
    """Copy a file's bytes within the kernel. Each system call that is saved is a turn of Python's
    lock saved."""
    with open(source, "rb", buffering=0) as reader:
        writer = create_file(target)
        try:
            while os.sendfile(writer, reader.fileno(), None, COPIED_AT_ONCE):
                pass
        finally:
            os.close(writer)
