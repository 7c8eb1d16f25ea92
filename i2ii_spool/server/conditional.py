"""Conditional requests and ranges of a file (RFC 9110, 13 and 14).

`aiohttp.FileResponse` evaluates them too. It takes an entity tag in `If-Range` for no condition,
and refuses ranges that are to be ignored.
"""

import math
import os
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import NamedTuple

from aiohttp import ETag, hdrs, web
from multidict import CIMultiDict

from i2ii_spool.errors import PreconditionFailed, RangeNotSatisfiable

CONDITIONS = (
    hdrs.IF_MATCH,
    hdrs.IF_NONE_MATCH,
    hdrs.IF_MODIFIED_SINCE,
    hdrs.IF_UNMODIFIED_SINCE,
    hdrs.IF_RANGE,
)
SINGLE_RANGE = re.compile(r"bytes=(\d{0,4000})-(\d{0,4000})", re.ASCII | re.IGNORECASE)
ANY_TAG = "*"

CACHE_CONTROL = "private, no-cache"
"""A browser may keep a picture and asks each time whether it is the same: it may be deleted, or
made anew by a retry."""


class Version(NamedTuple):
    """What tells one version of a file from another."""

    tag: str
    """The entity tag without quotes, as `aiohttp.FileResponse` makes it."""
    modified: int
    """Unix time in whole seconds, as in the `Last-Modified` of `aiohttp.FileResponse`."""

    def headers(self) -> dict[str, str]:
        """As headers of an answer without the file."""
        date = format_datetime(datetime.fromtimestamp(self.modified, UTC), usegmt=True)
        return {
            hdrs.ETAG: f'"{self.tag}"',
            hdrs.LAST_MODIFIED: date,
            hdrs.CACHE_CONTROL: CACHE_CONTROL,
        }


def version_of(status: os.stat_result) -> Version:
    """Return the version of a file."""
    return Version(f"{status.st_mtime_ns:x}-{status.st_size:x}", math.ceil(status.st_mtime))


def is_not_modified(request: web.Request, version: Version) -> bool:
    """Return whether the client has this version already (304).

    Raises `PreconditionFailed` if the client asks for another version.
    """
    since, unmodified = request.if_modified_since, request.if_unmodified_since
    if request.if_match is not None:
        is_other = not _matches(request.if_match, version, weak=False)
    else:
        is_other = unmodified is not None and version.modified > unmodified.timestamp()
    if is_other:
        raise PreconditionFailed("the picture is another one than If-Match names; request it anew")
    if request.if_none_match is not None:
        return _matches(request.if_none_match, version, weak=True)
    return since is not None and version.modified <= since.timestamp()


def _matches(tags: tuple[ETag, ...], version: Version, *, weak: bool) -> bool:
    return any(tag.value in (ANY_TAG, version.tag) and (weak or not tag.is_weak) for tag in tags)


def evaluated(request: web.Request, version: Version, size: int) -> web.Request:
    """Return the request without its conditions, and without a `Range` that is to be ignored.

    Those are ranges of a `HEAD`, several ranges, other units, what cannot be read, and ranges of
    another version (`If-Range`). Raises `RangeNotSatisfiable` for a range outside of the `size`
    bytes.
    """
    headers = CIMultiDict(request.headers)
    for name in CONDITIONS:
        headers.popall(name, None)
    ranges = request.headers.getall(hdrs.RANGE, [])
    is_one = len(ranges) == 1 and request.method == hdrs.METH_GET
    match = SINGLE_RANGE.fullmatch(ranges[0].strip()) if is_one else None
    if match is None or not _is_range(match[1], match[2]) or not _is_current(request, version):
        headers.popall(hdrs.RANGE, None)
    elif int(match[1] or 0) >= size or (not match[1] and int(match[2]) == 0):
        raise RangeNotSatisfiable(f"the picture has {size} bytes; request some of those", size=size)
    return request.clone(headers=headers)


def _is_range(first: str, last: str) -> bool:
    return bool(first or last) and not (first and last and int(first) > int(last))


def _is_current(request: web.Request, version: Version) -> bool:
    """Return whether `If-Range`, where there is one, names this version, by its tag or date."""
    named = request.headers.get(hdrs.IF_RANGE)
    if named is None or named == f'"{version.tag}"':
        return True
    return request.if_range is not None and request.if_range.timestamp() == version.modified
