"""What a request says of its webhook: the URL, and the events that are told there."""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

MAX_URL = 2000
EVENTS = ("started", "progress", "completed", "failed", "cancelled")
"""What can be told of a job."""
ENDS = ",".join(EVENTS[2:])
"""What is told where nothing else is asked for: how the job has ended."""
EVENTS_PATTERN = rf"^\s*({'|'.join(EVENTS)})(\s*[, ]\s*({'|'.join(EVENTS)}))*\s*$"
# Stricter than RFC 3986, so that no two programs read another host in it.
_URL = re.compile(
    r"https?://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?P<port>:[0-9]{1,5})?([/?][!-\[\]-~]*)?",
    re.IGNORECASE | re.ASCII,
)


def check_url(url: str) -> str:
    """Return the URL of a receiver. Raises `ValueError` that says what is wrong, and the cure."""
    if len(url) > MAX_URL:
        raise ValueError(f"must be at most {MAX_URL} characters")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError("must be a URL of https, like https://example.com/hook")
    if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        raise ValueError(
            "must not hold a user or a password; the messages are signed, so that none is needed"
        )
    if "#" in url:
        raise ValueError("must not have a fragment (#...), which is never sent")
    match = _URL.fullmatch(url)
    if match is None or not 1 <= int((match["port"] or ":443")[1:]) <= 65535:
        raise ValueError(
            "must be a URL like https://example.com/hook, with a port of 1 to 65535 if any, and "
            "all else than ASCII percent-encoded"
        )
    return url


def host_of(url: str) -> str:
    """Return the host of a URL that was checked, without brackets."""
    return urlsplit(url).hostname or ""


def is_encrypted(url: str) -> bool:
    """Whether a URL that was checked is of https."""
    return url[:6].lower() == "https:"


def receiver_of(url: str) -> str:
    """Return what of a URL that was checked names its receiver, and may be logged: no path, and no
    query, which may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def normal_events(value: Any) -> Any:
    """Return the events of a request in one order, separated by commas. JSON may have a list.

    Raises `ValueError` for a name that is none.
    """
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        names: Iterable[str] = value
    elif isinstance(value, str):
        names = value.replace(",", " ").split()
    else:
        return value  # pydantic says what it must be
    named = {name.strip().lower() for name in names}
    if unknown := sorted(named - set(EVENTS)):
        raise ValueError(f"has {unknown[0][:40]!r}; the events are {', '.join(EVENTS)}")
    if not named:
        raise ValueError(f"must name one event or more of {', '.join(EVENTS)}")
    return ",".join(name for name in EVENTS if name in named)
