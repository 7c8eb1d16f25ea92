"""Thumbnails that are kept: `.thumbnails/<job>/result-1-480-<version>.webp`.

They are a cache, and no part of a job: one that is lost is made again. Each is named after the
version of its picture, so that none is stale. A server writes it in `.tmp/` and renames it: servers
that make the same one replace it by the same. The deletion of a job takes them along; a server that
dies, or is late, between two of these steps leaves some behind, and `sweep` removes them.
"""

import os
import re
import secrets
from contextlib import suppress
from typing import Literal, NamedTuple

from i2ii_spool.errors import InvalidRequest, NotFound
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.spool.capacity import check_disk
from i2ii_spool.spool.durable_io import create_file, is_folder, unlink_if_exists
from i2ii_spool.spool.layout import Spool, create_folder
from i2ii_spool.spool.lookup import find

Of = Literal["result", "input"]
MAX_BYTES = 2**20
FILE = re.compile(r"(result|input)-\d{1,2}-\d{1,4}-[0-9a-f]+-[0-9a-f]+\.webp", re.ASCII)
TEMP = re.compile(r"\.thumbnail\.[0-9a-f]{16}")
"""In `.tmp/`."""


class Thumbnail(NamedTuple):
    """What a thumbnail shows."""

    id: str
    """Of the job."""
    of: Of
    n: int
    """Which picture, from 1."""
    side: int
    """The longer one in pixels, unless the picture is smaller."""
    version: str
    """Of the picture's file: when it was written, and its size."""

    @property
    def subject(self) -> str:
        """How the names of all its versions begin."""
        return f"{self.of}-{self.n}-{self.side}-"

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.subject}{self.version}.webp"


def read(spool: Spool, thumbnail: Thumbnail) -> bytes | None:
    """Return the thumbnail if it is kept."""
    try:
        with open_regular(spool.thumbnails / thumbnail.id / thumbnail.name) as file:
            data = file.read(MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError, InvalidRequest):
        return None
    return data if _is_whole(data) else None


def _is_whole(data: bytes) -> bool:
    """Whether a WebP has all its bytes: it was not synced, and a power failure may cut it off."""
    return data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 == len(data)


def keep(spool: Spool, thumbnail: Thumbnail, data: bytes, *, min_free: int) -> None:
    """Write a thumbnail, and remove its earlier versions.

    Raises `DiskFull` where the disk is to keep its space for jobs, `Deleted` if the job was deleted
    meanwhile, and what the disk says.
    """
    check_disk(spool, min_free=min_free)
    folder = spool.thumbnails / thumbnail.id
    with suppress(FileExistsError):
        create_folder(folder)
    if not is_folder(folder):
        raise NotADirectoryError(f"{folder} is no folder")
    temp = spool.staging / f".thumbnail.{secrets.token_hex(8)}"
    try:
        descriptor = create_file(temp)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(data)
        with suppress(FileNotFoundError):  # the folder was removed with its job
            os.rename(temp, folder / thumbnail.name)
    finally:
        temp.unlink(missing_ok=True)
    _remove(spool, thumbnail.id, beginning=thumbnail.subject, but=thumbnail.name)
    try:
        find(spool, thumbnail.id)
    except NotFound:  # who deleted it may have looked for thumbnails before this one was there
        delete(spool, thumbnail.id)
        raise


def delete(spool: Spool, id: str) -> None:
    """Remove the thumbnails of a job."""
    _remove(spool, id)
    with suppress(OSError):  # a new one has come: `sweep` removes it
        os.rmdir(spool.thumbnails / id)


def _remove(spool: Spool, id: str, *, beginning: str = "", but: str = "") -> None:
    folder = spool.thumbnails / id
    if not is_folder(folder):
        return
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if FILE.fullmatch(name) and name.startswith(beginning) and name != but:
                unlink_if_exists(folder / name)
