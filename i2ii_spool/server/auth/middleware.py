"""Authentication: which client sends a request.

Without tokens the server listens on this machine only, and every local client may do everything.
With tokens, each request but a probe needs one (RFC 6750). A token gives access to the jobs that
were submitted with it; an operator token gives access to all jobs.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import hdrs, web

from i2ii_spool.errors import SettingsError, Unauthorized
from i2ii_spool.server.auth import tokens
from i2ii_spool.server.auth.cors import AllowedOrigins
from i2ii_spool.server.auth.hosts import AllowedHosts
from i2ii_spool.server.auth.proxies import UNIX_CLIENT, Proxies, parse_address
from i2ii_spool.server.auth.refusals import Refusals
from i2ii_spool.server.auth.tokens import API_TOKEN_NAME, Token, digest_of
from i2ii_spool.settings import Settings, has_unix_peers, networks

log = logging.getLogger(__name__)

LIVENESS_PATH = "/livez"
METRICS_PATH = "/metrics"
PUBLIC_PATHS = {
    *(LIVENESS_PATH, "/health", "/openapi.json", "/docs", "/docs/rapidoc.js"),
    *("/", "/page/{digest}/{name}"),
}
API_KEY = "api-key"
TOKENS_POLL_SECONDS = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FileStamp = tuple[int, int, int]


@dataclass(frozen=True)
class Caller:
    """The client that sends a request."""

    name: str
    """The name of its token, or its address where there are no tokens."""
    address: str
    may_see_all: bool
    may_change_all: bool
    """Whether it may cancel, delete and retry the jobs of others."""
    owner: str
    """The `owner` of the jobs that it submits (`Token.owner`), or nothing."""

    def __str__(self) -> str:
        return self.address if self.name == self.address else f"{self.name} ({self.address})"

    def may_see(self, owner: str | None) -> bool:
        """Return whether it has access to the jobs of this owner."""
        return self.may_see_all or owner == self.owner

    def may_change(self, owner: str | None) -> bool:
        """Return whether it may cancel, delete and retry the jobs of this owner."""
        return self.may_change_all or owner == self.owner


class TokenAuth:
    """Identifies callers by the tokens in force. It reads the tokens file again when it changes."""

    def __init__(self, settings: Settings) -> None:
        self._private_jobs = settings.private_jobs
        self.proxies = Proxies(settings)
        self._hosts = AllowedHosts(settings)
        self.origins = AllowedOrigins(settings)
        self._refusals = Refusals()
        self._metrics_networks = networks(settings.metrics_networks)
        self._unix_peers_see_metrics = has_unix_peers(settings.metrics_networks)
        self._file = settings.tokens_file
        self._fixed = []
        if settings.api_token is not None:
            digest = digest_of(settings.api_token.get_secret_value())
            self._fixed = [Token(API_TOKEN_NAME, digest, is_operator=True)]
        self._stamp = _file_stamp(self._file)
        self._tokens = [*self._fixed, *([] if self._file is None else tokens.read(self._file))]
        self._auth_required = settings.auth_required
        self.on_change: Callable[[], None] = lambda: None
        """Called, in a thread, when other tokens are in force."""

    def check_host(self, request: web.Request) -> None:
        """Raise `MisdirectedRequest` or `Forbidden` for a request that a web page may have made.

        A page does not know the tokens: a valid one is proof enough.
        """
        if not self._auth_required:
            self._hosts.check(request)

    def identify(self, request: web.Request) -> Caller:
        """Return the caller. Raises `Unauthorized`, or `TooManyRequests` after many of them."""
        address = self.proxies.client_address(request)
        if not self._auth_required:
            return Caller(address, address, may_see_all=True, may_change_all=True, owner="")
        header = request.headers.get(hdrs.AUTHORIZATION, "")
        if not header and API_KEY in request.headers:  # as clients for Azure send it
            header = f"Bearer {request.headers[API_KEY]}"
        try:
            token = self._find_token(header)
        except Unauthorized as error:
            refused = self._refusals.add(address, request.path, error, has_token=bool(header))
            raise refused from None
        may_see_all = token.is_operator or not self._private_jobs
        return Caller(token.name, address, may_see_all, token.is_operator, owner=token.owner)

    def identify_scraper(self, request: web.Request) -> Caller | None:
        """Return the caller of `/metrics` that needs no token, or None if it needs one.

        It shows no proof that it is no web page: raises `MisdirectedRequest`, `Forbidden`. A page
        of an allowed origin, which could read the answer, needs one.
        """
        if not self._auth_required or hdrs.AUTHORIZATION in request.headers:
            return None
        if self.origins.allows(request):
            return None
        address = self.proxies.client_address(request)
        if not self._is_in_metrics_networks(address):
            return None
        self._hosts.check(request)
        return Caller(address, address, may_see_all=True, may_change_all=True, owner="")

    def _is_in_metrics_networks(self, address: str) -> bool:
        if address == UNIX_CLIENT:
            return self._unix_peers_see_metrics
        parsed = parse_address(address)
        return any(parsed in network for network in self._metrics_networks if parsed is not None)

    def _find_token(self, header: str) -> Token:
        """Return the token that an `Authorization` header carries, or raise `Unauthorized`."""
        scheme, _, credentials = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("a token is required: send `Authorization: Bearer TOKEN`")
        presented = digest_of(credentials.strip())
        # Compare with every token, each in constant time, so that the duration tells nothing.
        matches = [token for token in self._tokens if hmac.compare_digest(token.digest, presented)]
        if not matches:
            raise Unauthorized("this token is not valid, or was revoked; ask an operator for one")
        return matches[0]

    async def watch_tokens_file(self) -> None:
        """Read the file again whenever it changes. The tokens stay in force while it is invalid."""
        while self._file is not None:
            await asyncio.sleep(TOKENS_POLL_SECONDS)
            await asyncio.to_thread(self.read_if_changed, self._file)

    def read_if_changed(self, file: Path) -> None:
        """Read the file if it has changed since the last time."""
        stamp = _file_stamp(file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tokens = [*self._fixed, *tokens.read(file)]
        except SettingsError as error:
            log.error("the tokens stay as they were: %s", error)
        else:
            log.info("tokens read again: %d", len(self._tokens))
            self.on_change()


def _file_stamp(file: Path | None) -> FileStamp | None:
    """Return what changes when the file does; None if there is no file."""
    if file is None:
        return None
    with suppress(OSError):
        status = file.stat()
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    return None


AUTH = web.AppKey("auth", TokenAuth)
# A `web.RequestKey` where aiohttp has it (3.14): a plain string makes that version warn.
CALLER: Any = web.RequestKey("caller", Caller) if hasattr(web, "RequestKey") else "caller"
"""The caller of a request that `authenticate` let pass."""


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Identify the caller before anything else is done; refuse an unknown one."""
    auth, resource = request.app[AUTH], request.match_info.route.resource
    if auth.origins.is_preflight(request):
        return auth.origins.answer_preflight(request)
    path = None if resource is None else resource.canonical
    if path != LIVENESS_PATH:
        auth.check_host(request)
    if path not in PUBLIC_PATHS:
        scraper = auth.identify_scraper(request) if path == METRICS_PATH else None
        request[CALLER] = scraper or auth.identify(request)
    return await handler(request)


async def watch_tokens_file(app: web.Application) -> AsyncIterator[None]:
    """Watch the tokens file while the application runs."""
    task = asyncio.create_task(app[AUTH].watch_tokens_file())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
