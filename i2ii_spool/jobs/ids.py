"""Job ids: they sort by time, and are safe in a path and in a URL.

An id is UTC to the millisecond and six random letters: `20261123-101530-482-k7m2qf`. An admitted
guest keeps its name behind the id: `20261123-101530-482-k7m2qf_wedding-042`.
"""

import re
import secrets
import threading
import time
from datetime import UTC, datetime, timedelta

from i2ii_spool.errors import InvalidRequest

EXAMPLE = "20261123-101530-482-k7m2qf"
# The letters of RFC 4648 base32 in ASCII order, so that a larger number is a later name in `ls`.
LETTERS = "234567abcdefghijklmnopqrstuvwxyz"
SUFFIX_COUNT = 32**6
ID = re.compile(
    r"[1-9]\d{3}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])-([01]\d|2[0-3])[0-5]\d[0-5]\d-\d{3}-[a-z2-7]{6}"
    r"(_[A-Za-z0-9][A-Za-z0-9._-]{0,63})?",
    re.ASCII,
)


class Ids:
    """Makes job ids that sort in the order in which they were made.

    Within one process ids strictly increase, also when many are made in one millisecond or the
    clock is set back. Two processes that make an id in the same millisecond collide with a chance
    of one in 2^30: submitting notices, and draws again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0
        self._suffix = 0

    def new(self, name: str = "") -> str:
        """Return an id later than all before it, with as much of `name` behind it as is safe."""
        with self._lock:
            now = time.time_ns() // 1_000_000
            self._suffix += 1 + secrets.randbelow(1024)
            if now > self._millisecond or self._suffix >= SUFFIX_COUNT:
                self._millisecond = max(now, self._millisecond + 1)
                # The upper half is left for the rest of the millisecond.
                self._suffix = secrets.randbelow(SUFFIX_COUNT // 2)
            seconds, thousandths = divmod(self._millisecond, 1000)
            stamp = f"{datetime.fromtimestamp(seconds, UTC):%Y%m%d-%H%M%S}-{thousandths:03d}"
            shifts = (25, 20, 15, 10, 5, 0)
            letters = "".join(LETTERS[self._suffix >> shift & 31] for shift in shifts)
        return with_name(f"{stamp}-{letters}", name)


new_id = Ids().new


def with_name(id: str, name: str) -> str:
    """Return a bare id with as much of `name` behind it as is safe in a path and a URL.

    ASCII letters, digits, dots and dashes stay, at most 64 of them.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:64] if name else ""
    return f"{id}_{slug}" if slug else id


def without_name(id: str) -> str:
    """Return the bare id."""
    return id.partition("_")[0]


def is_id(text: str) -> bool:
    """Whether `text` is a job id, and so may become part of a path."""
    return ID.fullmatch(text) is not None


def check_id(text: str, field: str = "id") -> str:
    """Return `text`, or raise `InvalidRequest` if it is not a job id.

    Call it before any path is built from it.
    """
    if not is_id(text):
        raise InvalidRequest(f"{text[:100]!r} is not a job id; one is {EXAMPLE}", field=field)
    return text


def age_of(id: str) -> float:
    """Seconds since the id was made, by this host's clock; never negative."""
    return max(0.0, time.time() - made_at(id))


def made_at(id: str) -> float:
    """When the id was made, in seconds since 1970."""
    # By hand an id may be given a day that its month does not have.
    on_the_first = datetime.strptime(f"{id[:6]}01{id[8:19]}Z", "%Y%m%d-%H%M%S-%f%z")
    return (on_the_first + timedelta(days=int(id[6:8]) - 1)).timestamp()
