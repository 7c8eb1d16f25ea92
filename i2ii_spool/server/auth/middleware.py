"""Who is asking, and what they may see.

Without tokens the server listens to this machine alone, and whoever is on it may do everything. With tokens, each
request but a probe must bear one (RFC 6750), and sees the jobs submitted with it; an operator's token sees all.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import hdrs, web

from i2ii_spool.errors import Forbidden, NotFound, SettingsError, Unauthorized
from i2ii_spool.server.auth import tokens
from i2ii_spool.server.auth.tokens import Token, digest_of
from i2ii_spool.settings import Settings

log = logging.getLogger(__name__)

OPEN_TO_ALL = {"/livez", "/health"}
READ_AGAIN = 1.0
FROM_ENVIRONMENT = "environment"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Print = tuple[int, int, int]


@dataclass(frozen=True)
class Client:
    """Who is asking: a token's name, or an address where there are no tokens."""

    name: str
    address: str
    sees_all: bool
    owner: str
    """What is written into the jobs that it submits."""

    def __str__(self) -> str:
        return self.address if self.name == self.address else f"{self.name} ({self.address})"

    def sees(self, owner: str | None) -> bool:
        """Whether the jobs of this owner are shown to it."""
        return self.sees_all or owner == self.owner

    def check_sees(self, id: str, owner: str | None) -> None:
        """Raise `NotFound`, as for a job that is not there, if this one is somebody else's."""
        if not self.sees(owner):
            raise NotFound(f"there is no job {id}")


class Access:
    """The tokens in force. A file of them is read again when it changes."""

    def __init__(self, settings: Settings) -> None:
        self._private = settings.private_jobs
        self._file = settings.tokens
        self._fixed = []
        if settings.token is not None:
            self._fixed = [Token(FROM_ENVIRONMENT, digest_of(settings.token.get_secret_value()), is_operator=True)]
        self._print = _print_of(self._file)
        self._tokens = [*self._fixed, *([] if self._file is None else tokens.read(self._file))]
        self.is_open = settings.tokens is None and settings.token is None

    def identify(self, request: web.Request) -> Client:
        """Return who is asking. Raises `Unauthorized`, or `Forbidden` for a page of another site."""
        address = request.remote or "this machine"
        if not self.is_open:
            return self._bearer(request.headers.get(hdrs.AUTHORIZATION), address)
        _check_origin(request)
        return Client(address, address, sees_all=True, owner="")

    def _bearer(self, header: str | None, address: str) -> Client:
        scheme, _, credentials = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("a token is required: send `Authorization: Bearer TOKEN`")
        presented = digest_of(credentials.strip())
        # Every token is compared, each in constant time: how long it takes tells nothing.
        matches = [token for token in self._tokens if hmac.compare_digest(token.digest, presented)]
        if not matches:
            raise Unauthorized("this token is not valid, or no longer; ask an operator for another")
        token = matches[0]
        return Client(token.name, address, sees_all=token.is_operator or not self._private, owner=token.name)

    async def keep_up(self) -> None:
        """Read the file again whenever it has changed, for ever. One that cannot be used changes nothing."""
        while self._file is not None:
            await asyncio.sleep(READ_AGAIN)
            await asyncio.to_thread(self._read_if_changed, self._file)

    def _read_if_changed(self, file: Path) -> None:
        now = _print_of(file)
        if now == self._print:
            return
        self._print = now
        try:
            self._tokens = [*self._fixed, *tokens.read(file)]
        except SettingsError as error:
            log.error("the tokens stay as they were: %s", error)
        else:
            log.info("tokens read again: %d", len(self._tokens))


def _print_of(file: Path | None) -> Print | None:
    """What changes when the file does."""
    if file is None:
        return None
    with suppress(OSError):
        status = file.stat()
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    return None


def _check_origin(request: web.Request) -> None:
    """A page of another site must not act in the name of whoever looks at it: browsers say whence they come."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
        return
    if origin not in (f"http://{request.host}", f"https://{request.host}"):
        raise Forbidden(f"a page of {origin[:200]} may not do this; use the service's own address, or a token")


ACCESS = web.AppKey("access", Access)


def client_of(request: web.Request) -> Client:
    """Who makes this request. Raises as `Access.identify` does."""
    return request.app[ACCESS].identify(request)


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let nobody in who may not, before anything else is done."""
    if request.path not in OPEN_TO_ALL:
        client_of(request)
    return await handler(request)


async def keep_up(app: web.Application) -> AsyncIterator[None]:
    """Follow the file of tokens while the server runs."""
    task = asyncio.create_task(app[ACCESS].keep_up())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
