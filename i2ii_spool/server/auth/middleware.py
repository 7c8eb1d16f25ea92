"""Who is asking, and what they may see.

Without tokens the server listens to this machine alone, and whoever is on it may do everything.
With tokens, each request but a probe must bear one (RFC 6750), and may_see the jobs submitted with
it; an operator's token may_see all.
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

PUBLIC_PATHS = {"/livez", "/health"}
TOKENS_POLL_SECONDS = 1.0
API_TOKEN_NAME = "environment"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FileStamp = tuple[int, int, int]


@dataclass(frozen=True)
class Caller:
    """Who is asking: a token's name, or an address where there are no tokens."""

    name: str
    address: str
    may_see_all: bool
    owner: str
    """What is written into the jobs that it submits."""

    def __str__(self) -> str:
        return self.address if self.name == self.address else f"{self.name} ({self.address})"

    def may_see(self, owner: str | None) -> bool:
        """Whether the jobs of this owner are shown to it."""
        return self.may_see_all or owner == self.owner

    def check_may_see(self, id: str, owner: str | None) -> None:
        """Raise `NotFound`, as for a job that is not there, if this one is somebody else's."""
        if not self.may_see(owner):
            raise NotFound(f"there is no job {id}")


class TokenAuth:
    """The tokens in force. A file of them is read again when it changes."""

    def __init__(self, settings: Settings) -> None:
        self._private_jobs = settings.private_jobs
        self._file = settings.tokens_file
        self._fixed = []
        if settings.api_token is not None:
            self._fixed = [
                Token(
                    API_TOKEN_NAME,
                    digest_of(settings.api_token.get_secret_value()),
                    is_operator=True,
                )
            ]
        self._stamp = _file_stamp(self._file)
        self._tokens = [*self._fixed, *([] if self._file is None else tokens.read(self._file))]
        self.is_open = settings.tokens_file is None and settings.api_token is None

    def identify(self, request: web.Request) -> Caller:
        """Return who is asking. Raises `Unauthorized`, or `Forbidden` for a page of another site."""
        address = request.remote or "this machine"
        if not self.is_open:
            return self._bearer(request.headers.get(hdrs.AUTHORIZATION), address)
        _check_origin(request)
        return Caller(address, address, may_see_all=True, owner="")

    def _bearer(self, header: str | None, address: str) -> Caller:
        scheme, _, credentials = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("a token is required: send `Authorization: Bearer TOKEN`")
        presented = digest_of(credentials.strip())
        # Every token is compared, each in constant time: how long it takes tells nothing.
        matches = [token for token in self._tokens if hmac.compare_digest(token.digest, presented)]
        if not matches:
            raise Unauthorized("this token is not valid, or no longer; ask an operator for another")
        token = matches[0]
        return Caller(
            token.name,
            address,
            may_see_all=token.is_operator or not self._private_jobs,
            owner=token.name,
        )

    async def watch_tokens_file(self) -> None:
        """Read the file again whenever it has changed, for ever. One that cannot be used changes
        nothing."""
        while self._file is not None:
            await asyncio.sleep(TOKENS_POLL_SECONDS)
            await asyncio.to_thread(self._read_if_changed, self._file)

    def _read_if_changed(self, file: Path) -> None:
        now = _file_stamp(file)
        if now == self._stamp:
            return
        self._stamp = now
        try:
            self._tokens = [*self._fixed, *tokens.read(file)]
        except SettingsError as error:
            log.error("the tokens stay as they were: %s", error)
        else:
            log.info("tokens read again: %d", len(self._tokens))


def _file_stamp(file: Path | None) -> FileStamp | None:
    """What changes when the file does."""
    if file is None:
        return None
    with suppress(OSError):
        status = file.stat()
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    return None


def _check_origin(request: web.Request) -> None:
    """A page of another site must not act in the name of whoever looks at it: browsers say whence
    they come."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
        return
    if origin not in (f"http://{request.host}", f"https://{request.host}"):
        raise Forbidden(
            f"a page of {origin[:200]} may not do this; use the service's own address, or a token"
        )


AUTH = web.AppKey("access", TokenAuth)


def caller_of(request: web.Request) -> Caller:
    """Who makes this request. Raises as `TokenAuth.identify` does."""
    return request.app[AUTH].identify(request)


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let nobody in who may not, before anything else is done."""
    if request.path not in PUBLIC_PATHS:
        caller_of(request)
    return await handler(request)


async def watch_tokens_file(app: web.Application) -> AsyncIterator[None]:
    """Follow the file of tokens while the server runs."""
    task = asyncio.create_task(app[AUTH].watch_tokens_file())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
