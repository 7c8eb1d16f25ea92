"""The files of a job folder: their names, and how to open what others have put there."""

import errno
import io
import os
import stat
from pathlib import Path

from i2ii_spool.errors import InvalidRequest, TooLarge

JOB = "job.json"
PROMPT = "prompt.txt"
PROGRESS = "progress.json"
RESULT = "result.json"
ERROR = "error.json"
ERROR_TEXT = "error.txt"
CANCEL = "cancel"
READY = "ready"

MAX_RECORD = 64 * 1024
"""Bytes of a JSON file or of a `prompt.txt`; what we write stays far below."""


def open_regular(path: Path | str) -> io.BufferedReader:
    """Open a file that others may have put there: never through a link, never waiting for a FIFO or
    a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise InvalidRequest(
            f"{os.path.basename(path)} is not a regular file; put the file itself there"
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRequest(
            f"{os.path.basename(path)} is not a regular file; put the file itself there"
        )
    return io.BufferedReader(io.FileIO(descriptor))  # open() would ask whether it is a terminal


def read_record(path: Path) -> bytes:
    """Return what a small file holds that others may have put there.

    Raises `TooLarge`, or `InvalidRequest` for what is not a regular file.
    """
    with open_regular(path) as file:
        text = file.read(MAX_RECORD + 1)
    if len(text) > MAX_RECORD:
        raise TooLarge(f"{path.name} has more than {MAX_RECORD} bytes; no more are read")
    return text


def attempt_files(folder: Path) -> list[Path]:
    """The attempt files in `folder`, in no order."""
    return list(folder.glob("attempt-*.json"))
