"""One attempt: a POST to an address that was checked, without redirects, within a deadline.

A name is resolved once for each connection; all its addresses are judged, and the connection goes
to one of them. Between the check and the connection nothing asks the name server again.
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from ipaddress import ip_address
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from i2ii_spool.host.addresses import reach_of
from i2ii_spool.jobs.webhooks import host_of
from i2ii_spool.spool.webhook import WebhookPolicy
from i2ii_spool.webhooks.messages import Answer, Message, headers_of, retry_after_of, shown

DEADLINE_SECONDS = 20.0
"""For an attempt as a whole, from the name to the last byte of the answer."""
RESOLVER_THREADS = 64
"""A name server that does not answer holds one for longer than the deadline."""
MAX_ANSWER = 16 * 1024
"""Bytes of an answer that are read, so that its connection can be used again."""
KEEP_SECONDS = 15.0


class AddressRefused(Exception):
    """The URL leads where no message may go."""


class CheckedResolver(AbstractResolver):
    """Resolves the name of one URL, and refuses it if any of its addresses is refused."""

    def __init__(self, policy: WebhookPolicy, url: str, threads: ThreadPoolExecutor) -> None:
        self._policy = policy
        self._url = url
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises `AddressRefused`, or `OSError`."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host, port, family)
        for _, address in found:
            if problem := self._policy.problem(reach_of(address), address, self._url):
                raise AddressRefused(problem)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in found
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _look_up(host: str, port: int, family: int) -> list[tuple[int, str]]:
    found = socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return list(dict.fromkeys((kind, str(address[0])) for kind, *_, address in found))


class Connections:
    """The connections to one receiver: those of another are never used."""

    def __init__(self, policy: WebhookPolicy, url: str, threads: ThreadPoolExecutor) -> None:
        self._policy = policy
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(policy, url, threads),
            use_dns_cache=False,
            limit=0,
            keepalive_timeout=KEEP_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=DEADLINE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def post(self, message: Message, body: bytes, keys: Sequence[bytes]) -> Answer:
        """Send a message; return what came of it, whatever that is."""
        try:
            self._check_literal(message.url)
            return await self._post(message, body, keys)
        except AddressRefused as error:
            return Answer(shown(f"not sent: the webhook {error}"), is_refused=True)
        except TimeoutError:
            return Answer(f"no answer within {DEADLINE_SECONDS:.0f} s")
        except ssl.SSLError as error:
            return Answer(shown(f"no connection: {error}"))
        except aiohttp.InvalidURL:
            return Answer("not sent: the webhook is no URL", is_refused=True)
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            return Answer(shown(f"no connection: {str(error) or type(error).__name__}"))

    def _check_literal(self, url: str) -> None:
        """An address in a URL is not resolved."""
        host = host_of(url)
        with suppress(ValueError):
            reach = reach_of(ip_address(host))
            if problem := self._policy.problem(reach, host, url):
                raise AddressRefused(problem)

    async def _post(self, message: Message, body: bytes, keys: Sequence[bytes]) -> Answer:
        now = datetime.now(UTC)
        headers = headers_of(message.id, body, keys, now)
        async with self._session.post(
            message.url, data=body, headers=headers, allow_redirects=False
        ) as response:
            # The status is there; the rest does not matter, and is read for the next message.
            with suppress(aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError):
                await response.content.readexactly(MAX_ANSWER)
                response.close()
            return Answer(
                _text_of(response), response.status, retry_after_of(response.headers, now)
            )

    async def close(self) -> None:
        """Close them."""
        await self._session.close()


def _text_of(response: aiohttp.ClientResponse) -> str:
    reason = response.reason
    with suppress(ValueError):
        reason = reason or HTTPStatus(response.status).phrase
    redirect = " (redirects are not followed)" if 300 <= response.status < 400 else ""
    return shown(f"{response.status} {reason or ''}") + redirect


class Sender:
    """What all attempts share."""

    def __init__(self, policy: WebhookPolicy, keys: Sequence[bytes]) -> None:
        self._policy = policy
        self._keys = keys
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")
        self._connections: dict[str, Connections] = {}

    async def send(self, receiver: str, message: Message, body: bytes) -> Answer:
        """Make an attempt."""
        connections = self._connections.get(receiver)
        if connections is None:
            connections = Connections(self._policy, message.url, self._threads)
            self._connections[receiver] = connections
        return await connections.post(message, body, self._keys)

    async def forget(self, receiver: str) -> None:
        """Close the connections to a receiver for which nothing is left."""
        connections = self._connections.pop(receiver, None)
        if connections is not None:
            await connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for receiver in list(self._connections):
            await self.forget(receiver)
        # A name server may hold a thread for minutes; nothing waits for it.
        self._threads.shutdown(wait=False, cancel_futures=True)
