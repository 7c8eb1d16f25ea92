"""Submitting: a job is written whole in `.tmp/`, made durable, and appears by one rename."""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.images.probe import (
    Header,
    inspect_by_decoding,
    inspect_mask,
    inspect_quickly,
)
from i2ii_spool.jobs.folder import JOB, input_name, mask_name, open_regular
from i2ii_spool.jobs.ids import new_id, with_name
from i2ii_spool.jobs.request import MAX_IMAGES, EditRequest, Job
from i2ii_spool.spool import idempotency
from i2ii_spool.spool.actions import discard_staged
from i2ii_spool.spool.durable_io import create_file, move, open_new, sync_folder, write_new
from i2ii_spool.spool.job_request import check_result
from i2ii_spool.spool.layout import Spool, create_folder
from i2ii_spool.spool.lookup import find

COPY_CHUNK = 2**30


class Submission:
    """A job on its way in: add its pictures, then `publish`, or `discard`.

    No other process reads it before `publish`. `discard` may be called in another thread while
    `publish` runs: it waits, and leaves a job that is published.
    """

    def __init__(self, spool: Spool, *, max_images: int = MAX_IMAGES) -> None:
        self._spool = spool
        self._max_images = max_images
        self._pictures: list[bytes | None] = []
        self._mask: int | None = None
        self._files: list[BufferedReader] = []
        self._headers: list[Header | None] = []
        self.id = ""
        self._folder = ""
        self._lock = threading.RLock()
        self._is_published = False

    def add_picture(self, content: bytes | None, *, is_mask: bool = False) -> None:
        """Add a picture or the mask, which stays in memory until `inspect`; None for one in a file.

        Raises `InvalidRequest` for one too many.
        """
        if not is_mask:
            check_image_count(self._image_count() + 1, self._max_images)
        elif self._mask is not None:
            raise InvalidRequest("mask is given twice", field="mask")
        else:
            self._mask = len(self._pictures)
        self._pictures.append(content)

    def add_file(self, *, is_mask: bool = False) -> str:
        """Return the path to write the next picture, or the mask, to. Raises `InvalidRequest`."""
        self.add_picture(None, is_mask=is_mask)
        return self._upload(len(self._pictures) - 1)

    def _image_count(self) -> int:
        return len(self._pictures) - (self._mask is not None)

    def inspect(self, *, max_pixels: int) -> bool:
        """Write the pictures that are in memory, and inspect all, in bounded time.

        Return whether they are known to be whole; else `decode` tells. Raises `InvalidRequest` for
        a picture that is wrong.
        """
        check_image_count(self._image_count())
        with self._lock:
            for index in range(len(self._files), len(self._pictures)):
                self._files.append(self._open(index))
                field = "mask" if index == self._mask else "image"
                header = inspect_quickly(self._files[index], max_pixels=max_pixels, field=field)
                # Only its pixels tell whether a mask is one.
                self._headers.append(None if index == self._mask else header)
        return None not in self._headers

    def decode(self, *, max_pixels: int) -> None:
        """Have the pictures that `inspect` leaves open decoded. Raises `InvalidRequest`."""
        with self._lock:
            for index, (file, header) in enumerate(zip(self._files, self._headers, strict=True)):
                if header is not None:
                    continue
                if index == self._mask:
                    first = self._files[1 if self._mask == 0 else 0]
                    self._headers[index] = inspect_mask(file, first, max_pixels=max_pixels)
                else:
                    self._headers[index] = inspect_by_decoding(file, max_pixels=max_pixels)

    def publish(
        self,
        request: EditRequest,
        *,
        max_pixels: int,
        key: str | None = None,
        owner: str = "",
        take_over: bool = False,
    ) -> str:
        """Put the job into `incoming/`, durably, and return its id: the job is accepted now.

        If the owner's `key` stands for an earlier job that asks for the same, the id of that job is
        returned, and this one is discarded; with `take_over` likewise that of a recent job of the
        owner that asks for the same. Raises `InvalidRequest` for a picture that is wrong.
        """
        with self._lock:
            try:
                if not self.inspect(max_pixels=max_pixels):
                    self.decode(max_pixels=max_pixels)
                return self._publish(request, key, owner, take_over)
            finally:
                self._close()

    def _publish(self, request: EditRequest, key: str | None, owner: str, take_over: bool) -> str:
        headers = [header for header in self._headers if header is not None]
        mask_header = None if self._mask is None else headers.pop(self._mask)
        check_result(request, headers[0], mask_header)
        inputs, mask = self._name_pictures(headers, mask_header)
        # Already validated: to validate again costs as much as reading the picture's header.
        record = Job.model_construct(
            request.model_fields_set,
            **dict(request),
            inputs=tuple(inputs),
            mask=mask,
            submitted_at=datetime.now(UTC),
            owner=owner,
        )
        pictures = [Path(self._folder, name) for name in record.pictures]
        asked = idempotency.Asked(request, pictures, has_mask=bool(mask))
        if take_over and (twin := idempotency.find_twin(self._spool, owner, asked)):
            self.discard()
            return twin
        write_new(f"{self._folder}/{JOB}", record.to_json())
        sync_folder(self._folder)
        self.id = with_name(self.id, request.name)
        if key is not None:
            key_record = idempotency.KeyRecord(id=self.id, digest=asked.digest)
            stands_for = idempotency.reserve(self._spool, owner, key, key_record)
            if stands_for != self.id:
                self.discard()
                return stands_for
        self._move()
        return self.id

    def _name_pictures(
        self, headers: Sequence[Header], mask: Header | None
    ) -> tuple[list[str], str]:
        """Give the files the names that they have in the job, durably. Return those of the inputs,
        and that of the mask or ""."""
        names = [input_name(index, header.extension) for index, header in enumerate(headers)]
        inputs = names.copy()
        if self._mask is not None and mask is not None:
            names.insert(self._mask, mask_name(mask.extension))
        for index, (file, name) in enumerate(zip(self._files, names, strict=True)):
            os.rename(self._upload(index), f"{self._folder}/{name}")
            os.fsync(file.fileno())
        return inputs, "" if self._mask is None else names[self._mask]

    def _move(self) -> None:
        try:
            move(Path(self._folder), self._spool.incoming / self.id)
        except FileNotFoundError:
            find(self._spool, self.id)  # another submit with the same key has made the rename
        self._is_published = True

    def discard(self) -> None:
        """Remove what was written, unless it is published."""
        with self._lock:
            self._close()
            if self._is_published or not self._folder:
                return
            with suppress(OSError):  # `sweep` removes what stays
                discard_staged(Path(self._folder))

    def _open(self, index: int) -> BufferedReader:
        content = self._pictures[index]
        if content is None:
            return open_regular(self._upload(index))
        self._pictures[index] = b""  # the memory is free from now on
        return open_new(self._upload(index), content)

    def _close(self) -> None:
        for file in self._files:
            file.close()

    def _upload(self, index: int) -> str:
        """The path of a picture before its format is known."""
        if not self._folder:
            self._begin()
        return f"{self._folder}/upload-{index + 1}.part"

    def _begin(self) -> None:
        while True:
            self.id = new_id()
            folder = f"{self._spool.staging}/{self.id}"
            try:
                create_folder(folder)
            except FileExistsError:  # another process drew the same id
                continue
            self._folder = folder
            return


def check_image_count(count: int, most: int = MAX_IMAGES) -> None:
    """Raise `InvalidRequest` if a job cannot have so many pictures: no model takes them, or none
    that runs."""
    if not 1 <= count <= most:
        times = "exactly once" if most == 1 else f"at least once and at most {most} times"
        why = " (the model that runs takes no more)" if most < MAX_IMAGES else ""
        raise InvalidRequest(f"image is required, {times}{why}; {count} were given", field="image")


def submit(
    spool: Spool,
    pictures: Sequence[Path | bytes],
    request: EditRequest,
    *,
    mask: Path | bytes | None = None,
    max_pixels: int,
) -> str:
    """Copy the pictures and the request into the spool; return the id once the job is durable."""
    submission = Submission(spool)
    try:
        for picture in pictures:
            _add(submission, picture)
        if mask is not None:
            _add(submission, mask, is_mask=True)
        return submission.publish(request, max_pixels=max_pixels)
    except BaseException:
        submission.discard()
        raise


def _add(submission: Submission, picture: Path | bytes, *, is_mask: bool = False) -> None:
    if isinstance(picture, bytes):
        submission.add_picture(picture, is_mask=is_mask)
    else:
        _copy(picture, submission.add_file(is_mask=is_mask))


def _copy(source: Path, target: str) -> None:
    """Copy a file within the kernel: each system call saved is one wait for Python's lock saved."""
    with open(source, "rb", buffering=0) as reader:
        writer = create_file(target)
        try:
            while os.sendfile(writer, reader.fileno(), None, COPY_CHUNK):
                pass
        finally:
            os.close(writer)
