"""Submit jobs and wait for them in Python: over HTTP, with or without asyncio, or by the spool.

    with Client("http://127.0.0.1:8000") as client:
        id = client.submit([Path("photo.jpg")], EditRequest(prompt="turn this into a watercolour"))
        client.wait(id)
        Path("result.png").write_bytes(client.result(id))

`Client`, `AsyncClient` and `SpoolClient` have the same methods and raise the errors of
`i2ii_spool.errors`.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
from pydantic import ValidationError

from i2ii_spool.errors import InvalidRequest, NoServer, TryLater, WrongState, from_answer
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool import actions, submit
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.status import JobStatus, no_result, no_such_picture, read_status
from i2ii_spool.spool.submit import check_image_count

POLL_SECONDS = 0.2
LONG_POLL_SECONDS = 30
CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 60.0
"""Seconds without a byte of an answer after which there is no server."""
MIN_UPLOAD_RATE = 4096
"""Bytes a second; a server takes no slower upload."""
RECONNECT_SECONDS = 60.0
"""For so long, `wait` and `result` ask a server again that was there before: it may restart."""

Answer = TypeVar("Answer")
OnStatus = Callable[[JobStatus], None]
"""Called with each status of a job while `wait` waits."""


class AsyncClient:
    """A client of a server. Use it with `async with`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        if not re.match(r"https?://[^/]", url):
            raise InvalidRequest(
                f"{url} is not the URL of a server; one looks like http://127.0.0.1:8000",
                field="url",
            )
        self._url = url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(
            total=None, connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS
        )
        self._has_answered = False
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=self._headers
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def submit(self, pictures: Sequence[Path | bytes], request: EditRequest) -> str:
        """Submit pictures (paths, or the bytes of files) with a request; return the job's id.

        The job is on the server's disk then.
        """
        check_image_count(len(pictures))
        form = aiohttp.FormData()
        size = 0
        for name, value in request.model_dump(exclude_unset=True, exclude_none=True).items():
            form.add_field(name, str(value))
        for picture in pictures:
            data = (
                picture
                if isinstance(picture, bytes)
                else await asyncio.to_thread(picture.read_bytes)
            )
            form.add_field("image", data, filename="image")
            size += len(data)
        limit = aiohttp.ClientTimeout(
            CONNECT_SECONDS + size / MIN_UPLOAD_RATE + ANSWER_SECONDS,
            connect=CONNECT_SECONDS,
            sock_read=ANSWER_SECONDS,
        )
        answer = await self._call("POST", "/edit", data=form, timeout=limit)
        if "request_id" not in answer:
            raise self._odd_answer("a submit without an id")
        self._has_answered = True
        return str(answer["request_id"])

    async def status(self, id: str, *, wait: float = 0) -> JobStatus:
        """Return the job's status; with `wait`, once it has ended, or after `wait` seconds."""
        limit = aiohttp.ClientTimeout(connect=CONNECT_SECONDS, sock_read=wait + ANSWER_SECONDS)
        return self._status(
            await self._call("GET", f"/status/{id}", params={"wait": str(wait)}, timeout=limit)
        )

    def _status(self, answer: dict[str, Any]) -> JobStatus:
        try:
            status = JobStatus.model_validate(answer)
        except ValidationError:
            raise self._odd_answer("something else than the status of a job") from None
        self._has_answered = True
        return status

    async def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus:
        """Return the status once the job has ended. Call `on_status` with each status until then.

        A restart of the server does not end it.
        """
        seconds = POLL_SECONDS if on_status else LONG_POLL_SECONDS
        while True:
            status = await self._again(lambda: self.status(id, wait=seconds))
            if on_status is not None:
                on_status(status)
            if status.has_ended:
                return status

    async def result(self, id: str, n: int = 1) -> bytes:
        """Return the bytes of picture `n`, from 1.

        Raises `WrongState` until the job has ended, `JobFailed` if it ended without a picture.
        """
        return await self._again(lambda: self._result(id, n))

    async def _result(self, id: str, n: int) -> bytes:
        async with self._answer("GET", f"/result/{id}", params={"n": n}) as response:
            if response.status == 202:
                raise no_result(self._status(await self._json(response)))
            if not response.content_type.startswith("image/"):
                raise self._odd_answer(f"{response.status} with {response.content_type}")
            return await response.read()

    async def cancel(self, id: str) -> None:
        """Cancel a job that waits or runs. Raises `WrongState` if it has ended."""
        status = await self.status(id)
        if status.has_ended:
            raise WrongState(f"job {id} is {status.status} already; there is nothing to cancel")
        await self._call("DELETE", f"/jobs/{id}")

    async def system(self) -> dict[str, Any]:
        """Return the counts, the workers and the spool, as `GET /system/status` answers them."""
        return await self._call("GET", "/system/status")

    async def _again(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until the server answers, if it has answered before."""
        ends_at: float | None = None
        while True:
            try:
                return await ask()
            except (NoServer, TryLater) as error:
                now = time.monotonic()
                ends_at = ends_at or now + RECONNECT_SECONDS
                if not self._has_answered or now > ends_at:
                    raise
                pause = error.retry_after if isinstance(error, TryLater) else 1
                await asyncio.sleep(min(pause, RECONNECT_SECONDS))

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with self._answer(method, path, **options) as response:
            return await self._json(response)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, self._url + path, **options) as response:
                if response.status >= 400:
                    described = (await self._json(response)).get("error")
                    if not isinstance(described, dict):
                        raise self._odd_answer(f"{response.status} without an error")
                    raise from_answer(response.status, described, _retry_after(response))
                yield response
        except TimeoutError as error:
            raise NoServer(f"the server at {self._url} does not answer in time") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise NoServer(f"no server answers at {self._url}: {error}") from error

    async def _json(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        try:
            answer = await response.json()
        except (aiohttp.ContentTypeError, ValueError):
            answer = None
        if not isinstance(answer, dict):
            raise self._odd_answer(f"{response.status}, and not with a JSON object")
        return answer

    def _odd_answer(self, what: str) -> NoServer:
        return NoServer(f"{self._url} is not an i2ii server: it answers {what}")


def _retry_after(response: aiohttp.ClientResponse) -> int:
    """Return the seconds of `Retry-After`, which a proxy may give as a date."""
    value = response.headers.get("Retry-After", "")
    return int(value) if re.fullmatch(r"[0-9]{1,6}", value) else 1


class Client:
    """A client of a server. Use it with `with`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._client = AsyncClient(url, token)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.__aexit__())
        self._runner.close()

    def submit(self, pictures: Sequence[Path], request: EditRequest) -> str:
        """Submit pictures with a request; return the job's id. The job is on disk then."""
        return self._runner.run(self._client.submit(pictures, request))

    def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus:
        """Return the status once the job has ended. Call `on_status` until then."""
        return self._runner.run(self._client.wait(id, on_status))

    def result(self, id: str, n: int = 1) -> bytes:
        """Return the bytes of picture `n`, from 1."""
        return self._runner.run(self._client.result(id, n))

    def cancel(self, id: str) -> None:
        """Cancel a job that waits or runs. Raises `WrongState` if it has ended."""
        self._runner.run(self._client.cancel(id))


class SpoolClient:
    """A client of a spool on this machine. It needs no server.

    `max_pixels` limits each picture that is submitted.
    """

    def __init__(self, spool: Spool, max_pixels: int) -> None:
        self._spool = spool
        self._max_pixels = max_pixels

    def submit(self, pictures: Sequence[Path], request: EditRequest) -> str:
        """Submit pictures with a request; return the job's id. The job is on disk then."""
        return submit.submit(self._spool, pictures, request, max_pixels=self._max_pixels)

    def wait(self, id: str, on_status: OnStatus | None = None) -> JobStatus:
        """Return the status once the job has ended. Call `on_status` until then."""
        while True:
            status = read_status(self._spool, id)
            if on_status is not None:
                on_status(status)
            if status.has_ended:
                return status
            time.sleep(POLL_SECONDS)

    def result(self, id: str, n: int = 1) -> bytes:
        """Return the bytes of picture `n`, from 1."""
        status = read_status(self._spool, id)
        if status.outputs is None:
            raise no_result(status)
        if not 1 <= n <= len(status.outputs):
            raise no_such_picture(status, n)
        with open_regular(find(self._spool, id).folder / status.outputs[n - 1]) as file:
            return file.read()

    def cancel(self, id: str) -> None:
        """Cancel a job that waits or runs. Raises `WrongState` if it has ended."""
        actions.cancel(self._spool, id)
