"""Job ids: sortable, safe in a path and a URL, checked before any path is built from one."""

import re
import secrets
import threading
import time
from datetime import UTC, datetime

from i2ii_spool.errors import InvalidRequest

# The letters of RFC 4648 base32 in ASCII order, so that a larger number is a later name in `ls`.
LETTERS = "234567abcdefghijklmnopqrstuvwxyz"
SUFFIX_COUNT = 32**6
ID = re.compile(r"\d{8}-\d{6}-\d{3}-[a-z2-7]{6}(_[A-Za-z0-9][A-Za-z0-9._-]{0,63})?", re.ASCII)


class Ids:
    """Makes job ids that sort in the order in which they were made.

    An id is UTC to the millisecond and six random letters: `20261123-101530-482-k7m2qf`. Within one
    process ids strictly increase, also when many are made in one millisecond or the clock is set
    back. Two processes may make the same id with a chance of one in 2^30 for each pair made in the
    same millisecond; submitting notices and draws anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0
        self._suffix = 0

    def new(self, name: str = "") -> str:
        """Return an id later than all before it, with as much of `name` behind it as is safe in a
        path and a URL."""
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._millisecond:
                self._start(now)
            else:
                self._suffix += 1 + secrets.randbelow(1024)
                if self._suffix >= SUFFIX_COUNT:
                    self._start(self._millisecond + 1)
            id = _stamp(self._millisecond) + "-" + _letters(self._suffix)
        return with_name(id, name)

    def _start(self, millisecond: int) -> None:
        self._millisecond = millisecond
        self._suffix = secrets.randbelow(
            SUFFIX_COUNT // 2
        )  # the upper half is left for the rest of the millisecond


def _stamp(millisecond: int) -> str:
    seconds, thousandths = divmod(millisecond, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%d-%H%M%S}-{thousandths:03d}"


def _letters(number: int) -> str:
    return "".join(LETTERS[number >> shift & 31] for shift in (25, 20, 15, 10, 5, 0))


new_id = Ids().new


def with_name(id: str, name: str) -> str:
    """Return a bare id with as much of `name` behind it as is safe in a path and a URL."""
    slug = slugify(name)
    return f"{id}_{slug}" if slug else id


def without_name(id: str) -> str:
    """Return the bare id."""
    return id.partition("_")[0]


def age_of(id: str) -> float:
    """Return the seconds since an id was made, by this host's clock; 0 if that is in the future."""
    made = datetime.strptime(id[:19], "%Y%m%d-%H%M%S-%f").replace(tzinfo=UTC)
    return max(0.0, time.time() - made.timestamp())


def is_id(text: str) -> bool:
    """Whether `text` is a job id, and so may become part of a path."""
    return ID.fullmatch(text) is not None


def check_id(text: str, field: str = "id") -> str:
    """Return `text`, or raise `InvalidRequest` if it is not a job id. Call it before any path is
    built from it."""
    if not is_id(text):
        example = "20261123-101530-482-k7m2qf"
        raise InvalidRequest(
            f"{text[:100]!r} is not a job id; one looks like {example}", field=field
        )
    return text


def slugify(name: str) -> str:
    """Return what can stay of `name` behind an id: ASCII letters, digits, dots, dashes; at most 64
    of them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:64]
