"""The job folder: every file in it by name, and how to open what other processes put there."""

import errno
import io
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from i2ii_spool.errors import InvalidRequest, TooLarge

MAX_RECORD = 64 * 1024
"""Bytes of a JSON record or of a `prompt.txt`. Records that i2ii writes are far smaller."""

STALE_PAUSES = (0.01, 0.02, 0.04, 0.08, 0.16)
"""Seconds until a path that is stale is tried again."""

T = TypeVar("T")

JOB, PROMPT, RESULT, READY = "job.json", "prompt.txt", "result.json", "ready"
RETRY_SUFFIX = ".retry"

RESULT_PICTURE = re.compile(r"result(-[2-9])?\.(png|jpg|webp)")
"""A worker names its results so; a user may have a file of such a name too (`spool.outputs`)."""
MAX_OUTPUT_NAMES = 9
ATTEMPT = re.compile(r"attempt-([1-9]\d*)\.json", re.ASCII)
WRITTEN = re.compile(
    rf"{RESULT_PICTURE.pattern}|{ATTEMPT.pattern}|(job|progress|result|error|webhook)\.json|error\.txt",
    re.ASCII,
)
"""The names of all files that i2ii writes into a job folder, markers apart."""


class JobFolder:
    """The paths of one job folder. `docs/protocol.md` says who writes each file, and when."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        """The name of the folder."""
        return self.path.name

    @property
    def job(self) -> Path:
        """The request; its presence makes the folder a job, and no guest."""
        return self.path / JOB

    @property
    def prompt(self) -> Path:
        """The instruction of a guest that has no `job.json`."""
        return self.path / PROMPT

    @property
    def ready(self) -> Path:
        """An empty file: the guest is complete, and is not watched for changes."""
        return self.path / READY

    @property
    def cancel(self) -> Path:
        """An empty file: stop this job."""
        return self.path / "cancel"

    @property
    def progress(self) -> Path:
        """How far the engine is; a hint."""
        return self.path / "progress.json"

    @property
    def result(self) -> Path:
        """The commit record: its presence means that the edit succeeded."""
        return self.path / RESULT

    @property
    def error(self) -> Path:
        """Why the job failed: its presence means that it has."""
        return self.path / "error.json"

    @property
    def error_text(self) -> Path:
        """The same for people, with the traceback."""
        return self.path / "error.txt"

    @property
    def webhook(self) -> Path:
        """How far the messages to its webhook are; a hint."""
        return self.path / "webhook.json"

    @property
    def retry_marker(self) -> Path:
        """An empty file beside the folder of a claimed job: the ending inside is an earlier one."""
        return self.path.with_name(f".{self.path.name}{RETRY_SUFFIX}")

    def attempt(self, number: int) -> Path:
        """The record that attempt `number` (from 1) has begun."""
        return self.path / f"attempt-{number}.json"

    def attempts(self) -> list[Path]:
        """The attempt records that are there, the latest last; their number is the crash
        counter."""
        found = [match for name in os.listdir(self.path) if (match := ATTEMPT.fullmatch(name))]
        return [self.path / match[0] for match in sorted(found, key=lambda match: int(match[1]))]

    def has_ended(self) -> bool:
        """Whether the record of an ending is there, of this run or of an earlier one."""
        return self.result.exists() or self.error.exists()


def input_name(index: int, extension: str) -> str:
    """The name of the picture at `index` (from 0): `input.png`, `input-2.jpg`, `input-3.webp`."""
    return f"input.{extension}" if index == 0 else f"input-{index + 1}.{extension}"


def mask_name(extension: str) -> str:
    """The name of the mask: `mask.png`."""
    return f"mask.{extension}"


def output_name(index: int, output_format: str) -> str:
    """The name of the result at `index` (from 0): `result.png`, `result-2.jpg`."""
    extension = "jpg" if output_format == "jpeg" else output_format
    return f"result.{extension}" if index == 0 else f"result-{index + 1}.{extension}"


def open_regular(path: Path | str) -> io.BufferedReader:
    """Open a file that another process may have put there, never through a link.

    Opening never waits for a FIFO or a device. Raises `InvalidRequest` for what is not a regular
    file.
    """
    not_regular = f"{os.path.basename(path)} is not a regular file; put the file itself there"
    try:
        descriptor, mode = retry_stale(partial(_open_with_mode, path))
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise InvalidRequest(not_regular) from None
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise InvalidRequest(not_regular)
    return io.BufferedReader(io.FileIO(descriptor))  # open() would ask whether it is a terminal


def _open_with_mode(path: Path | str) -> tuple[int, int]:
    """Open a file for reading; return its descriptor and its `st_mode`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return descriptor, os.fstat(descriptor).st_mode
    except OSError as error:
        with suppress(OSError):  # it says the same once more
            os.close(descriptor)
        if error.errno != errno.ENOENT:
            raise
        # GlusterFS opens late: another host has replaced the file meanwhile.
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fspath(path)) from error


def retry_stale(call: Callable[[], T]) -> T:
    """Do a call that uses a path, and do it again while it says ESTALE.

    A network file system says so of a file that another host replaces meanwhile. And a kernel does
    of a folder that another host has moved, if it looks for it under the new name during a rename
    of its own on the same mount (`d_splice_alias`, fs/dcache.c). Neither lasts.
    """
    for pause in STALE_PAUSES:
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(pause)
    return call()


def read_record(path: Path) -> bytes:
    """Return the contents of a small file that another process may have put there.

    Raises `TooLarge`, or `InvalidRequest` for what is not a regular file.
    """
    with open_regular(path) as file:
        text = file.read(MAX_RECORD + 1)
    if len(text) > MAX_RECORD:
        raise TooLarge(f"{path.name} has more than {MAX_RECORD} bytes; no more are read")
    return text
