"""A message as Standard Webhooks has it: its body, its signature, and when it is sent again.

The specification: https://github.com/standard-webhooks/standard-webhooks
"""

import base64
import hashlib
import hmac
import json
import random
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from i2ii_spool import __version__
from i2ii_spool.spool.status import JobStatus
from i2ii_spool.spool.webhook import Delivery, Outcome

MINUTE, HOUR = 60.0, 3600.0
DELAYS = (
    *(5, 5 * MINUTE, 30 * MINUTE),
    *(hours * HOUR for hours in (2, 5, 10, 14, 20, 24)),
)
"""Seconds from an attempt that failed to the next one."""
JITTER = 0.1
"""Each is longer by up to this part, so that what failed together does not come back together."""
MAX_RETRY_AFTER = 24 * HOUR
MAX_SHOWN = 200
GONE = 410


class Message(NamedTuple):
    """Something to tell of a job."""

    id: str
    type: str
    at: datetime
    """When it happened."""
    url: str
    job: str

    @property
    def is_fleeting(self) -> bool:
        """Whether it is worth nothing a moment later: it is sent once."""
        return self.type == "job.progress"


class Answer(NamedTuple):
    """What has become of an attempt."""

    text: str
    """For people: the status, or why there is none."""
    status: int | None = None
    """None without an answer."""
    retry_after: float = 0.0
    """Seconds that the receiver asks for."""
    is_refused: bool = False
    """Whether the message may never go there."""

    @property
    def outcome(self) -> Outcome | None:
        """None if it is to be sent again."""
        if self.status is not None and 200 <= self.status < 300:
            return "delivered"
        return "dropped" if self.is_refused or self.status == GONE else None


def body_of(message: Message, status: JobStatus) -> bytes:
    """Return the body: the status of the job as it is now, without that of its webhook."""
    data = status.model_copy(update={"webhook": None}).to_dict()
    told = {"type": message.type, "timestamp": message.at.isoformat(), "data": data}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def headers_of(id: str, body: bytes, keys: Sequence[bytes], now: datetime) -> dict[str, str]:
    """Return the headers of an attempt: each key signs, so that a receiver may have any."""
    stamp = str(int(now.timestamp()))
    signed = f"{id}.{stamp}.".encode() + body
    digests = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    return {
        "Content-Type": "application/json",
        "User-Agent": f"i2ii/{__version__} (+webhooks)",
        "webhook-id": id,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in digests),
    }


def delay_after(attempts: int, retry_after: float = 0.0) -> float | None:
    """Return the seconds until the next attempt after this many; None if there is none."""
    if attempts > len(DELAYS):
        return None
    delay = DELAYS[attempts - 1] * (1 + JITTER * random.random())
    return max(delay, min(retry_after, MAX_RETRY_AFTER))


def retry_after_of(headers: Mapping[str, str], now: datetime) -> float:
    """Return the seconds that `Retry-After` asks for, which may be a date; 0 for none."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def shown(text: str) -> str:
    """Return what another program said as one short line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 3]}..."


def begun(message: Message) -> Delivery:
    """Return the delivery of a message that was never sent."""
    return Delivery(id=message.id, type=message.type, at=message.at)
