"""The hosts that a request may name, where no token proves that it may be answered.

An attacker can have the name of a web page resolve to this machine (DNS rebinding). Its browser
then takes this server for the page's own, and lets the page read the answers. The request still
carries the page's name in `Host`. An address there is harmless: only names can be rebound.
"""

import re
import socket
from ipaddress import ip_address

from aiohttp import hdrs, web

from i2ii_spool.errors import Forbidden, MisdirectedRequest
from i2ii_spool.settings import ANY_HOST, Settings

AUTHORITY = re.compile(r"(?:\[(?P<v6>[^\]@/]*)\]|(?P<name>[^\[\]:@/\s]*))(?::\d{0,5})?", re.ASCII)
LOCALHOST = "localhost"
SAFE_METHODS = (hdrs.METH_GET, hdrs.METH_HEAD)


class AllowedHosts:
    """The names that requests and web pages may have."""

    def __init__(self, settings: Settings) -> None:
        self._set_by_operator = settings.allowed_host_names
        self._names = {LOCALHOST, settings.host.lower(), *self._set_by_operator}
        if settings.no_auth:  # it may listen beyond loopback
            self._names.add(socket.gethostname().lower())

    def check(self, request: web.Request) -> None:
        """Raise `MisdirectedRequest` for another host, `Forbidden` for a page of another site."""
        if is_over_ip(request):  # no browser connects to a Unix socket; its proxy's names are many
            self._check_host(request)
        self._check_origin(request)

    def _check_host(self, request: web.Request) -> None:
        named = request.headers.getall(hdrs.HOST, [])
        if is_absolute(request):
            named.append(request.url.authority)
        for authority in filter(None, named):
            if not self._allows(authority):
                raise MisdirectedRequest(
                    f"this server is not {authority[:200]}; use its address or localhost, or add "
                    "the name to the server's setting I2II_ALLOWED_HOSTS",
                    field=hdrs.HOST,
                )

    def _allows(self, authority: str) -> bool:
        match = AUTHORITY.fullmatch(authority)
        if match is None:
            return False
        if match["v6"] is not None:
            return _is_address(match["v6"])
        host = match["name"].lower().removesuffix(".")
        return (
            ANY_HOST in self._set_by_operator
            or host in self._names
            or host.endswith(f".{LOCALHOST}")
            or _is_address(host)
        )

    def _check_origin(self, request: web.Request) -> None:
        """Raise `Forbidden` for a request that a web page of another site makes (CSRF).

        A browser names the page's site in `Origin`.
        """
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or request.method in SAFE_METHODS:
            return
        scheme, _, authority = origin.lower().partition("://")
        match = AUTHORITY.fullmatch(authority)
        is_own = authority == request.host.lower()
        is_allowed = match is not None and match["name"] in self._set_by_operator
        if scheme not in ("http", "https") or not (is_own or is_allowed):
            raise Forbidden(
                f"a page of {origin[:200]} may not do this; open the page at the server's own "
                "address, or use a token"
            )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_absolute(request: web.Request) -> bool:
    """Return whether the request line has a host, which then stands for that in `Host`."""
    target = request.raw_path
    return request.method == hdrs.METH_CONNECT or ("://" in target and target[0] != "/")


def is_over_ip(request: web.Request) -> bool:
    """Return whether the connection is one of IP; else it is one of a Unix socket.

    One that the client has closed already has no address; it counts as one of IP.
    """
    return request.remote is None or _is_address(request.remote)
