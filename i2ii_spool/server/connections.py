"""Who may stay connected when there are as many connections as there may be.

A newcomer is not refused, for who it is shows only in its first request. Another connection is
closed in its favour, one that waits for a request:

1. of those that no authenticated request has come on, the first of a client that holds more than
   its share, else the one that has waited longest;
2. of the others, likewise.

A connection that has waited for less than `SETTLED_SECONDS` is spared as long as its client is
within its share: its request may be on its way. So one client cannot keep the others out, many
without a token cannot displace who bears one, and who is disconnected in good faith loses nothing.

If every connection is needed, the newcomer gets one of `SPARE` that lie beyond the limit. There a
probe is answered. An authenticated request takes the place of the longest request of the client
that holds most, if that is more than its share and a different client; any other request gets 503.

A client is an address, or a network of IPv6. The peers on a Unix socket and the trusted proxies
speak for many clients: they have no share to exceed.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from i2ii_spool.errors import TooManyConnections
from i2ii_spool.server.auth.proxies import parse_address

log = logging.getLogger(__name__)

SHARES = 8
"""A client's share is the eighth part of the connections."""
SPARE = 16
SETTLED_SECONDS = 1.0
SECONDS_BETWEEN_WARNINGS = 60.0


@dataclass(eq=False)
class Place:
    """One connection among all. `close` ends it at once."""

    client: str | None
    """None for a peer that speaks for many clients."""
    close: Callable[[], None]
    is_known: bool = False
    """Whether an authenticated request has come on it."""
    waits_since: float = field(default_factory=time.monotonic)


Places = dict[Place, None]
"""In the order in which they were added."""


class Connections:
    """All connections, of which there are at most `most`, and `SPARE` beyond."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._share = max(1, most // SHARES)
        self._waiting: Places = {}
        self._serving: Places = {}
        self._spare: Places = {}
        self._held: Counter[str | None] = Counter()
        self._warned_at = -SECONDS_BETWEEN_WARNINGS

    def enter(self, client: str | None, close: Callable[[], None]) -> Place:
        """Give a new connection a place, at the expense of another if there is no more room."""
        place = Place(client, close)
        if self._has_room_after_closing(self._least_needed):
            self._held[client] += 1
            self._waiting[place] = None
            return place
        if len(self._spare) == SPARE:
            self._close(next(iter(self._spare)))
        self._spare[place] = None
        return place

    def leave(self, place: Place) -> None:
        """Forget a connection that is closed. It may be forgotten already."""
        self._spare.pop(place, None)
        for places in (self._waiting, self._serving):
            if place in places:
                del places[place]
                self._held[place.client] -= 1
                if not self._held[place.client]:
                    del self._held[place.client]

    def begin_request(self, place: Place) -> None:
        """Take note that a request is being served."""
        if place in self._waiting:
            del self._waiting[place]
            self._serving[place] = None

    def end_request(self, place: Place) -> None:
        """Take note that the connection waits for its next request."""
        if place in self._serving:
            del self._serving[place]
            self._waiting[place] = None
            place.waits_since = time.monotonic()

    def is_spare(self, place: Place) -> bool:
        """Whether the connection is one beyond the limit, for a single request."""
        return place in self._spare

    def keep(self, place: Place) -> None:
        """Take note that its request is authenticated. Raises `TooManyConnections` if it is a spare
        one and no place can be made for it."""
        place.is_known = True
        if place not in self._spare:
            return
        if not self._has_room_after_closing(lambda: self._least_needed() or self._longest(place)):
            raise TooManyConnections(
                f"the server has {self._most} connections, the limit, and needs them all; "
                "try again in 1 s"
            )
        del self._spare[place]
        self._held[place.client] += 1
        self._serving[place] = None

    def _has_room_after_closing(self, choose: Callable[[], Place | None]) -> bool:
        """Return whether there is room, once the connection that `choose` returns is closed."""
        if len(self._waiting) + len(self._serving) < self._most:
            return True
        self._warn()
        chosen = choose()
        if chosen is not None:
            self._close(chosen)
        return chosen is not None

    def _least_needed(self) -> Place | None:
        """Return the first waiting connection to close, if any may be closed."""
        greedy, settled_before = self._greedy(), time.monotonic() - SETTLED_SECONDS
        for is_known in (False, True):
            waiting = [place for place in self._waiting if place.is_known is is_known]
            for place in waiting:
                if place.client in greedy:
                    return place
            if waiting and waiting[0].waits_since < settled_before:
                return waiting[0]
        return next((place for place in self._waiting if not place.is_known), None)

    def _longest(self, newcomer: Place) -> Place | None:
        """Return the connection whose request has lasted longest, of the client that holds most."""
        greediest = max(self._greedy(), key=self._held.__getitem__, default=None)
        if greediest is None or greediest == newcomer.client:
            return None
        return next((place for place in self._serving if place.client == greediest), None)

    def _greedy(self) -> set[str]:
        """Return the clients that hold more than their share."""
        return {
            client
            for client, count in self._held.items()
            if client is not None and count > self._share
        }

    def _close(self, place: Place) -> None:
        self.leave(place)
        place.close()

    def _warn(self) -> None:
        now = time.monotonic()
        if now >= self._warned_at + SECONDS_BETWEEN_WARNINGS:
            self._warned_at = now
            (client, count) = self._held.most_common(1)[0]
            log.warning(
                "all %d connections are taken, %d by %s; idle ones are closed (max_connections)",
                *(self._most, count, client or "trusted proxies"),
            )


def client_of(peer: object, trusted: Sequence[IPv4Network | IPv6Network]) -> str | None:
    """Return the client of a socket's peer name; None for one that speaks for many clients."""
    address = parse_address(str(peer[0])) if isinstance(peer, tuple) else None
    if address is None or any(address in network for network in trusted):
        return None
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(address.packed[:8] + bytes(8))}/64"
    return str(address)
