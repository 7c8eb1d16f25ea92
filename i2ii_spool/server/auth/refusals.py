"""Refused requests: each client leaves one line a minute in the log, and is slowed down."""

import logging
import math
import time
from dataclasses import dataclass

from i2ii_spool.errors import I2iiError, TooManyRequests

log = logging.getLogger(__name__)

MINUTE = 60.0
MAX_REFUSALS = 100
"""Wrong tokens of one address within a minute; more are answered with 429."""
MAX_ADDRESSES = 10_000
"""Counted at a time; with one more, all begin anew."""


@dataclass
class _Minute:
    """The refusals of one address since `began_at`."""

    began_at: float
    count: int = 0


class Refusals:
    """Counts the refused requests of each address. A valid token is never slowed down."""

    def __init__(self) -> None:
        self._minutes: dict[str, _Minute] = {}

    def add(self, address: str, path: str, error: I2iiError, *, has_token: bool) -> I2iiError:
        """Return the error to answer with: this one, or `TooManyRequests`.

        Only wrong tokens count, not requests without one.
        """
        now = time.monotonic()
        minute = self._minutes.get(address)
        if minute is None or now > minute.began_at + MINUTE:
            if len(self._minutes) >= MAX_ADDRESSES:
                self._minutes.clear()
            minute = self._minutes[address] = _Minute(now)
            log.warning("refused %s, which asks for %r: %s", address, path[:100], error)
        minute.count += has_token
        if minute.count <= MAX_REFUSALS or not has_token:
            return error
        if minute.count == MAX_REFUSALS + 1:
            log.warning("%s was refused %d times within a minute", address, MAX_REFUSALS)
        wait = math.ceil(minute.began_at + MINUTE - now)
        return TooManyRequests(
            f"{MAX_REFUSALS} requests of {address} had a wrong token; try again in {wait} s, with "
            "a valid one at once",
            retry_after=wait,
        )
