"""The address of a client behind reverse proxies, and how it reaches them.

Each proxy appends the address that it was reached from to `X-Forwarded-For`. What stands left of
the first untrusted address may be invented, so the header is read from the right.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import hdrs, web

from i2ii_spool.server.auth.hosts import is_over_ip
from i2ii_spool.settings import Settings

X_FORWARDED_FOR = "X-Forwarded-For"
X_FORWARDED_PROTO = "X-Forwarded-Proto"
SCHEMES = ("http", "https")
HOP = re.compile(
    r"\[(?P<v6>[^\]]*)\](?::\d+)?|(?P<v4>[\d.]+)(?::\d+)?|(?P<bare>[^\[\]]*)", re.ASCII
)
UNIX_CLIENT = "this machine"
"""The name of clients that connect to a Unix socket."""


class Proxies:
    """The proxies whose word about their clients is believed."""

    def __init__(self, settings: Settings) -> None:
        self._networks = settings.trusted_networks
        self._trusts_unix_peers = settings.trusts_unix_peers

    def client_address(self, request: web.Request) -> str:
        """Return the address of the client: the nearest one that no trusted proxy has."""
        if not self._believes(request):
            return (request.remote if is_over_ip(request) else None) or UNIX_CLIENT
        address = parse_address(request.remote or "") if is_over_ip(request) else None
        for hop in reversed(forwarded_for(request)):
            before = parse_address(hop)
            if before is None:  # `unknown`, or a proxy that writes something else
                break
            address = before
            if not self._is_trusted(address):
                break
        return UNIX_CLIENT if address is None else str(address)

    def scheme(self, request: web.Request) -> str:
        """Return `https` or `http`: how the client reaches the proxy, or else this server."""
        said = request.headers.get(X_FORWARDED_PROTO, "").rpartition(",")[2].strip().lower()
        return said if said in SCHEMES and self._believes(request) else request.scheme

    def _believes(self, request: web.Request) -> bool:
        """Whether a request comes from a trusted proxy."""
        if not is_over_ip(request):
            return self._trusts_unix_peers
        address = parse_address(request.remote or "")
        return address is not None and self._is_trusted(address)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def forwarded_for(request: web.Request) -> list[str]:
    """Return the addresses that proxies have written, that of the client first.

    `Forwarded` counts only without `X-Forwarded-For`: most proxies write that, and pass a
    `Forwarded` on as the client sent it.
    """
    values = request.headers.getall(X_FORWARDED_FOR, [])
    if values:
        return ",".join(values).split(",")
    if hdrs.FORWARDED in request.headers:
        return [element.get("for", "") for element in request.forwarded]
    return []


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in `203.0.113.7:4711` or `[2001:db8::7]:4711`; None if there is none."""
    match = HOP.fullmatch(text.strip())
    if match is None:
        return None
    try:
        address = ip_address(match["v6"] or match["v4"] or match["bare"])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
