"""Submitting: a job is written whole in `.tmp/`, made durable, and appears by one rename."""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool.errors import InvalidRequest, UnsupportedPicture
from i2ii_spool.images.probe import inspect_file
from i2ii_spool.jobs.folder import JOB, input_name, open_regular
from i2ii_spool.jobs.ids import new_id, with_name
from i2ii_spool.jobs.request import MAX_IMAGES, EditRequest, Job
from i2ii_spool.spool import idempotency
from i2ii_spool.spool.actions import discard_staged
from i2ii_spool.spool.capacity import check_disk
from i2ii_spool.spool.durable_io import create_file, move, sync_folder, write_new
from i2ii_spool.spool.job_request import check_result
from i2ii_spool.spool.layout import Spool, create_folder
from i2ii_spool.spool.lookup import find

COPY_CHUNK = 2**30


class Submission:
    """A job on its way in: `add_image` for each picture, then `publish`, or `discard`.

    No other process reads it before `publish`. `discard` may be called in another thread while
    `publish` runs: it waits, and leaves a job that is published.
    """

    def __init__(
        self, spool: Spool, *, min_free: int | None = None, max_images: int = MAX_IMAGES
    ) -> None:
        """Begin in `.tmp/`. Raises `DiskFull` if less than `min_free` bytes are free."""
        if min_free is not None:
            check_disk(spool, min_free=min_free)
        self._spool = spool
        self._max_images = max_images
        self._images: list[str] = []
        self._lock = threading.RLock()
        self._is_published = False
        while True:
            self.id = new_id()
            self._folder = f"{spool.staging}/{self.id}"
            try:
                create_folder(self._folder)
                return
            except FileExistsError:  # another process drew the same id
                continue

    def add_image(self) -> str:
        """Return the path to write the next picture to.

        Raises `InvalidRequest` for one too many.
        """
        check_image_count(len(self._images) + 1, self._max_images)
        self._images.append(f"{self._folder}/upload-{len(self._images) + 1}.part")
        return self._images[-1]

    def publish(
        self, request: EditRequest, *, max_pixels: int, key: str | None = None, owner: str = ""
    ) -> str:
        """Put the job into `incoming/`, durably, and return its id: the job is accepted now.

        If the owner's `key` stands for an earlier job that asks for the same, the id of that job is
        returned, and this one is discarded. Raises `InvalidRequest` for a picture that is wrong.
        """
        with self._lock:
            return self._publish(request, max_pixels, key, owner)

    def _publish(self, request: EditRequest, max_pixels: int, key: str | None, owner: str) -> str:
        check_image_count(len(self._images))
        inputs = []
        for index, image in enumerate(self._images):
            with open_regular(image) as file:
                if os.fstat(file.fileno()).st_size == 0:
                    message = "image is empty; send the picture's bytes"
                    raise UnsupportedPicture(message, field="image")
                header = inspect_file(file, max_pixels=max_pixels)
                if index == 0:
                    check_result(request, header)
                name = input_name(index, header.extension)
                os.rename(image, f"{self._folder}/{name}")
                os.fsync(file.fileno())
            inputs.append(name)
        # Already validated: to validate again costs as much as reading the picture's header.
        record = Job.model_construct(
            request.model_fields_set,
            **dict(request),
            inputs=tuple(inputs),
            submitted_at=datetime.now(UTC),
            owner=owner,
        )
        write_new(f"{self._folder}/{JOB}", record.to_json())
        sync_folder(self._folder)
        self.id = with_name(self.id, request.name)
        if key is not None:
            digest = idempotency.digest(request, [Path(self._folder, name) for name in inputs])
            key_record = idempotency.KeyRecord(id=self.id, digest=digest)
            stands_for = idempotency.reserve(self._spool, owner, key, key_record)
            if stands_for != self.id:
                self.discard()
                return stands_for
        self._move()
        return self.id

    def _move(self) -> None:
        try:
            move(Path(self._folder), self._spool.incoming / self.id)
        except FileNotFoundError:
            find(self._spool, self.id)  # another submit with the same key has made the rename
        self._is_published = True

    def discard(self) -> None:
        """Remove what was written, unless it is published."""
        with self._lock:
            if self._is_published:
                return
            with suppress(OSError):  # `sweep` removes what stays
                discard_staged(Path(self._folder))


def check_image_count(count: int, most: int = MAX_IMAGES) -> None:
    """Raise `InvalidRequest` if a job cannot have so many pictures: no model takes them, or none
    that runs."""
    if not 1 <= count <= most:
        times = "exactly once" if most == 1 else f"at least once and at most {most} times"
        why = " (the model that runs takes no more)" if most < MAX_IMAGES else ""
        raise InvalidRequest(f"image is required, {times}{why}; {count} were given", field="image")


def submit(spool: Spool, pictures: Sequence[Path], request: EditRequest, *, max_pixels: int) -> str:
    """Copy the pictures and the request into the spool; return the id once the job is durable."""
    submission = Submission(spool)
    try:
        for picture in pictures:
            _copy(picture, submission.add_image())
        return submission.publish(request, max_pixels=max_pixels)
    except BaseException:
        submission.discard()
        raise


def _copy(source: Path, target: str) -> None:
    """Copy a file within the kernel: each system call saved is one wait for Python's lock saved."""
    with open(source, "rb", buffering=0) as reader:
        writer = create_file(target)
        try:
            while os.sendfile(writer, reader.fileno(), None, COPY_CHUNK):
                pass
        finally:
            os.close(writer)
